"""Examples that are too long are cut whole, left out or rejected, and what is lost adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossmask import Encoder, Example, Fit, InputError, Lost, Outcome, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.layout import Layout
from lossmask.truncating import fit_example, part_of, replies_of
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import Message, assistant, system, user

TOKENIZER = load_tokenizer(DEMO_MODEL)
REWRITING = FIXTURE_TEMPLATES["reasoning kept after the last user turn only"]
CONVERSATION = [
    system("S0."),
    user("Q1 one"),
    assistant("A2 two"),
    user("Q3 three"),
    assistant("A4 four"),
]
REASONED = [
    user("Q0"),
    assistant("A1", reasoning_content="R1"),
    user("Q2"),
    assistant("A3", reasoning_content="R3 " * 9),
]


def whole(messages: list[Message], **options: Any) -> Example:
    [example] = Encoder(TOKENIZER, **options).encode(messages)
    return example


def fitted(messages: list[Message], fit: Fit, **options: Any) -> Outcome:
    return Encoder(TOKENIZER, fit=fit, **options).encode_row({"messages": messages})


def kinds(example: Example) -> list[tuple[str, int]]:
    return [(finding.kind, finding.message_index) for finding in example.findings]


def check_columns(part: Example, source: Example, first: int) -> None:
    """Require every column of a part to be that of its source, but for the loss."""
    span = slice(first, first + len(part))
    assert part.input_ids.tolist() == source.input_ids[span].tolist()
    assert part.message_index.tolist() == source.message_index[span].tolist()
    texts = [part.text[start:end] for start, end in part.offsets.tolist()]
    assert texts == [source.text[start:end] for start, end in source.offsets[span].tolist()]


def test_what_fits_is_not_touched() -> None:
    example = whole(CONVERSATION)
    outcome = fitted(CONVERSATION, Fit(max_length=len(example), truncation="keep_start"))
    [kept] = outcome.examples
    assert outcome.lost == Lost()
    assert (kept.text, kept.spans, kept.findings) == (example.text, example.spans, ())


@pytest.mark.parametrize(
    ("cut_reply", "supervised"),
    [
        ("mask", ["A2 two<|im_end|>"]),
        ("train", ["A2 two<|im_end|>", "A4 four"]),
    ],
)
def test_a_reply_that_loses_its_end_is_not_trained_unless_asked_for(
    cut_reply: Any, supervised: list[str]
) -> None:
    source = whole(CONVERSATION)
    cut = source.spans[1].token_end - 1  # its stop token
    outcome = fitted(CONVERSATION, Fit(cut, "keep_start", cut_reply))
    [kept] = outcome.examples
    assert len(kept) == cut
    check_columns(kept, source, 0)
    assert kept.text == source.text[: -len("<|im_end|>\n")]
    assert kept.supervised_text == supervised
    assert kept.loss_mask.sum() == sum(s.token_end - s.token_start for s in kept.spans)
    assert [span.stop for span in kept.spans] == ["<|im_end|>", None][: len(supervised)]
    assert kinds(kept) == [("end_cut", -1), ("reply_cut", 4)]
    assert outcome.lost == Lost(
        tokens=2,
        supervised_tokens=source.supervised_count - kept.supervised_count,
        turns=2 - len(supervised),
        cut_replies=1,
    )


def test_the_example_of_a_cut_reply_can_be_left_out() -> None:
    source = whole(CONVERSATION)
    outcome = fitted(CONVERSATION, Fit(source.spans[1].token_end - 1, "keep_start", "drop"))
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == ("reply_cut", 4)
    assert outcome.lost == Lost(len(source), source.supervised_count, 2, 1, 1)


def test_a_cut_between_replies_cuts_none() -> None:
    source = whole(CONVERSATION)
    for length in range(source.spans[0].token_end, source.spans[1].token_start + 1):
        [kept] = fitted(CONVERSATION, Fit(length, "keep_start")).examples
        assert len(kept) == length
        assert kept.supervised_text == ["A2 two<|im_end|>"]
        assert kinds(kept) == [("end_cut", -1)]


def test_a_reply_that_loses_only_what_is_not_trained_is_whole() -> None:
    policy = Policy(stop="never")
    source = whole(CONVERSATION, policy=policy)
    length = source.spans[1].token_end - 1
    [kept] = fitted(CONVERSATION, Fit(length, "keep_start"), policy=policy).examples
    assert kept.loss_weights.tolist() == source.loss_weights[:length].tolist()
    assert kept.supervised_text == ["A2 two<|im_end|>", "A4 four"]
    assert kinds(kept) == [("end_cut", -1)]


def test_the_end_is_kept_with_a_finding_that_parity_is_lost() -> None:
    source = whole(CONVERSATION)
    first = source.spans[0].token_end
    outcome = fitted(CONVERSATION, Fit(len(source) - first, "keep_end"))
    [kept] = outcome.examples
    check_columns(kept, source, first)
    assert kept.text == source.text[source.spans[0].end :]
    assert kept.supervised_text == ["A4 four<|im_end|>"]
    assert kinds(kept) == [("context_cut", -1)]
    assert "the first 24 of 44 tokens are cut off, so that no token has before it" in (
        kept.findings[0].detail
    )
    lost = source.spans[0].token_end - source.spans[0].token_start
    assert outcome.lost == Lost(tokens=first, supervised_tokens=lost, turns=1)


@pytest.mark.parametrize(
    ("cut_reply", "supervised"),
    [
        ("mask", ["A4 four<|im_end|>"]),
        ("train", ["2 two<|im_end|>", "A4 four<|im_end|>"]),
    ],
)
def test_a_reply_that_loses_its_beginning_is_not_trained_unless_asked_for(
    cut_reply: Any, supervised: list[str]
) -> None:
    source = whole(CONVERSATION)
    length = len(source) - source.spans[0].token_start - 1
    [kept] = fitted(CONVERSATION, Fit(length, "keep_end", cut_reply)).examples
    check_columns(kept, source, len(source) - length)
    assert kept.supervised_text == supervised
    assert kinds(kept) == [("context_cut", -1), ("reply_cut", 2)]
    for span in kept.spans:
        assert span.stop == "<|im_end|>"
        assert kept.loss_mask[span.token_start : span.token_end].all()


def test_a_reply_that_loses_its_untrained_beginning_is_cut_all_the_same() -> None:
    policy = Policy(weights={"content": 0})
    source = whole(CONVERSATION, policy=policy)
    length = len(source) - source.spans[0].token_start - 1
    [kept] = fitted(CONVERSATION, Fit(length, "keep_end"), policy=policy).examples
    assert [span.message_index for span in kept.spans] == [4]


@pytest.mark.parametrize("truncation", ["keep_start", "keep_end"])
def test_a_character_of_several_tokens_stays_whole(truncation: Any) -> None:
    messages = [user("👍🏽𒀀"), assistant("👨‍👩‍👧𒀀👍🏽")]
    source = whole(messages)
    lengths = set()
    for length in range(2, len(source)):
        outcome = fitted(messages, Fit(length, truncation, "train"))
        for kept in outcome.examples:
            lengths.add(len(kept))
            assert length - 3 <= len(kept) <= length
            check_columns(
                kept, source, 0 if truncation == "keep_start" else len(source) - len(kept)
            )
            assert TOKENIZER.decode(kept.input_ids) == kept.text
    assert 5 < len(lengths) < len(source) - source.spans[0].token_start


def test_tokens_to_ignore_are_cut_with_the_others() -> None:
    policy = Policy(ignore=("two", "four"))
    source = whole(CONVERSATION, policy=policy)
    assert source.ignorable is not None
    for truncation in ("keep_start", "keep_end"):
        [kept] = fitted(CONVERSATION, Fit(30, truncation), policy=policy).examples
        first = 0 if truncation == "keep_start" else len(source) - 30
        assert kept.ignorable is not None
        assert kept.ignorable.tolist() == source.ignorable[first : first + 30].tolist()


@pytest.mark.parametrize(
    ("fit", "reason", "message_index", "detail"),
    [
        (
            Fit(10),
            "too_long",
            None,
            "an example has 44 tokens, max_length is 10: cut it with truncation drop_turns,",
        ),
        (Fit(10, "drop"), "too_long", None, "max_length is 10: truncation=drop leaves it out"),
        (
            Fit(10, "keep_start"),
            "nothing_left",
            None,
            "of those that keep_start keeps nothing is left to train: no supervised token",
        ),
        (Fit(3, "keep_end"), "nothing_left", 4, "the only reply there is cut, which cut_reply="),
    ],
)
def test_a_row_of_which_nothing_is_left_is_rejected(
    fit: Fit, reason: str, message_index: int | None, detail: str
) -> None:
    source = whole(CONVERSATION)
    outcome = fitted(CONVERSATION, fit)
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == (reason, message_index)
    assert detail in outcome.rejection.detail
    assert (outcome.lost.tokens, outcome.lost.examples) == (len(source), 1)
    assert (outcome.lost.supervised_tokens, outcome.lost.turns) == (source.supervised_count, 2)
    with pytest.raises(InputError) as raised:
        Encoder(TOKENIZER, fit=fit).encode(CONVERSATION)
    assert (raised.value.reason, raised.value.message_index) == (reason, message_index)


def test_the_first_token_alone_teaches_nothing() -> None:
    policy = Policy(train_on="all")
    source = whole(CONVERSATION, policy=policy)
    assert source.loss_mask.all()
    masked = fitted([user("x" * 40), assistant("A")], Fit(4, "keep_start"), policy=policy)
    assert masked.rejection is None  # the header is in the loss, too
    assert masked.examples[0].loss_mask.tolist() == [True, True, True, False]


def test_error_rejects_the_row_and_drop_the_example_that_is_too_long() -> None:
    last, first = Encoder(TOKENIZER, chat_template=REWRITING).encode(REASONED)
    assert len(first) < len(last)
    fit = Fit(len(last) - 1)
    outcome = fitted(REASONED, fit, chat_template=REWRITING)
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "too_long"
    assert outcome.lost.tokens == len(last) + len(first)
    assert outcome.lost.examples == 2
    outcome = fitted(REASONED, Fit(len(last) - 1, "drop"), chat_template=REWRITING)
    [kept] = outcome.examples
    assert kept.input_ids.tolist() == first.input_ids.tolist()
    assert kinds(kept) == [("example_dropped", -1)]
    assert kept.findings[0].detail == (
        f"one of the row's 2 examples is left out: an example has {len(last)} tokens, max_length "
        f"is {len(last) - 1}: truncation=drop leaves it out"
    )
    assert outcome.lost == Lost(len(last), last.supervised_count, turns=1, examples=1)


def test_what_was_found_about_other_messages_is_not_lost_with_the_first_example() -> None:
    messages = [user(" Q0 "), *REASONED[1:]]
    template = REWRITING.replace("{{ m.content }}", "{{ m.content | trim }}")
    last, first = Encoder(TOKENIZER, chat_template=template).encode(messages)
    assert (kinds(last), kinds(first)) == ([("text_trimmed", 0)], [])
    outcome = fitted(messages, Fit(len(last) - 1, "drop"), chat_template=template)
    assert kinds(outcome.examples[0]) == [("text_trimmed", 0), ("example_dropped", -1)]


def text_row(fit: Fit, *ends: int, text: str = "Q: 1+1? A: it is two, I think") -> Outcome:
    """Encode a text whose last characters are in the loss, in touching ranges."""
    starts = [11, *ends]
    weights = [
        {"start": start, "end": end, "weight": 1.0 + number}
        for number, (start, end) in enumerate(zip(starts, [*ends, len(text)], strict=True))
    ]
    encoder = Encoder(TOKENIZER, fit=fit, layout=Layout(format="text"))
    return encoder.encode_row({"text": text, "weights": weights})


def test_formatted_text_is_cut_like_a_conversation() -> None:
    [source] = text_row(Fit()).examples
    length = len(source) - 3
    [kept] = text_row(Fit(length, "keep_start", "train")).examples
    check_columns(kept, source, 0)
    assert kept.loss_weights.tolist() == source.loss_weights[:length].tolist()
    assert kinds(kept)[-2:] == [("end_cut", -1), ("reply_cut", 0)]
    outcome = text_row(Fit(length, "keep_start"))
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "nothing_left"


def test_ranges_that_touch_are_one_reply() -> None:
    [source] = text_row(Fit(), 16).examples
    assert len(source.spans) == 2
    assert [len(reply) for reply in replies_of(source)] == [2]
    border = source.spans[0].token_end
    for length in (border, border + 1):
        outcome = text_row(Fit(length, "keep_start"), 16)
        assert outcome.rejection is not None
        assert outcome.rejection.reason == "nothing_left"
        assert outcome.lost.turns == 1


def test_replies_that_touch_are_two_where_a_stop_token_is_between() -> None:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    messages = [user("Q0"), assistant("A1"), assistant("A2")]
    source = whole(messages, chat_template=template)
    assert source.spans[0].token_end == source.spans[1].token_start
    [kept] = fitted(messages, Fit(len(source) - 1, "keep_start"), chat_template=template).examples
    assert kept.supervised_text == ["A1<|im_end|>"]


def test_exchanges_cannot_be_dropped_where_there_are_none() -> None:
    outcome = text_row(Fit(4, "drop_turns"))
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "too_long"
    assert "drops exchanges of conversations, and this row is none" in outcome.rejection.detail


def test_rows_of_ids_are_cut_between_characters() -> None:
    ids = TOKENIZER("a𒀀b𒀀c", add_special_tokens=False)["input_ids"]
    texts = set()
    for length in range(2, len(ids)):
        encoder = Encoder(TOKENIZER, fit=Fit(length, "keep_start", "train"))
        for kept in encoder.encode_row({"input_ids": ids, "labels": ids}).examples:
            assert kept.input_ids.tolist() == ids[: len(kept)]
            texts.add(TOKENIZER.decode(kept.input_ids))
    assert texts == {"a𒀀", "a𒀀b", "a𒀀b𒀀"}


def test_a_part_of_an_example_keeps_its_invariants() -> None:
    source = whole(CONVERSATION)
    for first, end in ((0, len(source)), (3, 30), (30, 31)):
        part = part_of(source, first, end)
        check_columns(part, source, first)
        assert part.labels.tolist() == source.labels[first:end].tolist()
        for span in part.spans:
            ids = part.input_ids[span.token_start : span.token_end]
            assert TOKENIZER.decode(ids) == part.text[span.start : span.end]
    assert part_of(source, 0, len(source)).spans == source.spans


def test_a_cut_example_is_the_same_whether_cut_alone_or_in_its_row() -> None:
    source = whole(CONVERSATION)
    fit = Fit(30, "keep_start")
    [alone], [row] = fit_example(source, fit).examples, fitted(CONVERSATION, fit).examples
    assert np.array_equal(alone.loss_weights, row.loss_weights)
    assert (alone.text, alone.findings) == (row.text, row.findings)


def test_losses_add_up() -> None:
    assert Lost(1, 2, 3, 4, 5) + Lost(10, 20, 30, 40, 50) == Lost(11, 22, 33, 44, 55)
