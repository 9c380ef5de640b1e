"""A row ends kept or rejected: one of the two, never both and never neither."""

from __future__ import annotations

import numpy as np
import pytest

from lossmask import ConversationError, Example, Outcome, Rejection, TemplateError

EXAMPLE = Example(
    text="a",
    input_ids=np.array([1], np.int32),
    offsets=np.array([[0, 1]], np.int32),
    loss_weights=np.ones(1, np.float32),
    message_index=np.zeros(1, np.int32),
    spans=(),
)


def test_an_outcome_holds_examples_or_a_rejection() -> None:
    assert Outcome((EXAMPLE,)).examples == (EXAMPLE,)
    assert Outcome((EXAMPLE,)).rejection is None
    rejection = Rejection("reason", "detail", None)
    assert Outcome(rejection=rejection).rejection is rejection
    assert Outcome(rejection=rejection).examples == ()


@pytest.mark.parametrize(
    ("examples", "rejection"), [((), None), ((EXAMPLE,), Rejection("reason", "detail", None))]
)
def test_an_outcome_is_neither_both_nor_nothing(
    examples: tuple[Example, ...], rejection: Rejection | None
) -> None:
    with pytest.raises(ValueError, match="an outcome has either examples or a rejection"):
        Outcome(examples, rejection)


def test_a_rejection_says_what_the_error_said() -> None:
    error = ConversationError("bad thing", reason="slug", message_index=0)
    assert Rejection.from_error(error) == Rejection("slug", "bad thing", 0)
    assert str(Rejection.from_error(error)) == "slug: message 0: bad thing"
    assert str(Rejection.from_error(TemplateError("no"))) == "template_error: no"
