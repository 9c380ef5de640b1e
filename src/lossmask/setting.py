"""All that stays the same from row to row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lossmask.fit import Fit
from lossmask.policy import Policy
from lossmask.protocols import AnyTemplate, AnyTokenizer
from lossmask.stops import Stops

if TYPE_CHECKING:  # which import this module
    from lossmask.example import Example
    from lossmask.laying_out import Group
    from lossmask.weighting import Weigher

Proving = Literal["template", "rows", "off"]
"""What is held against perturbation: each template once, on conversations made for it; every row of
data, too; or nothing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """All that stays the same from row to row.

    Attributes:
        template: The chat template, or another renderer.
        tokenizer: The tokenizer that the model is trained with.
        policy: What to train on.
        stops: Where inference ends a turn.
        template_variables: Further variables the template reads (``enable_thinking`` …).
        proof: What is held against perturbation.
        fit: How long an example may be.
        record: Told of every example that is built, before any is cut, and of what it is built
            from, if that is a conversation; for those who ask where its text came from.
    """

    template: AnyTemplate
    tokenizer: AnyTokenizer
    policy: Policy
    stops: Stops
    template_variables: Mapping[str, Any]
    proof: Proving = "template"
    fit: Fit = field(default_factory=Fit)
    record: Callable[[Example, Group | None, Weigher | None], None] | None = None
