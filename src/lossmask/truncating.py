r"""Examples that are too long -> examples that fit, and an account of what that cost.

In: a row in the normal form. Out: its :class:`Outcome`. An example is cut as a whole, ids, weights,
offsets, spans and text together. ``keep_start`` cuts a reply off where inference would go on, so
there is no stop token; ``cut_reply`` decides about it::

    tokens       user Q1 asst A1 a1 a1 <end> user Q2 asst A2 a2 │ a2 <end>     max_length = 12
    train                     ^^ ^^ ^^ ^^^^^              ^^ ^^ │
    mask                      ^^ ^^ ^^ ^^^^^                    │
    drop         the example is left out

``keep_end`` cuts the same way at the start; then nothing that is left has the context that
inference would give it. ``drop_turns`` keeps parity: see ``dropping_turns``. No cut goes through a
character that is several tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lossmask.dropping_turns import drop_turns
from lossmask.example import Example, Finding, Span
from lossmask.fit import Fit
from lossmask.normal_rows import encode_normal
from lossmask.outcome import Lost, Outcome, Rejection
from lossmask.setting import Setting

_HALF = "\ufffd"  # what a token that is half a character decodes to, in rows of ids


def encode_to_fit(row: Mapping[str, Any], setting: Setting) -> Outcome:
    """Encode one row in the normal form into examples that are not too long.

    Args:
        row: Has ``messages``, ``text`` or ``input_ids``.
        setting: Template, tokenizer, policy, fit.

    Returns:
        Its examples, each of at most ``max_length`` tokens and with a token in the loss; or why
        there is none.

    Raises:
        LossmaskError: It cannot be encoded exactly, or nothing of it is in the loss.
    """
    examples = encode_normal(row, setting)
    fit = setting.fit
    if all(fit.admits(len(example)) for example in examples):
        return Outcome(tuple(examples))
    outcomes: list[Outcome] = []
    for number, example in enumerate(examples):
        if fit.admits(len(example)):
            outcomes.append(Outcome((example,)))
        elif fit.truncation == "drop_turns" and "messages" in row:
            before = [kept.input_ids for outcome in outcomes for kept in outcome.examples]
            outcomes.append(drop_turns(row, examples, number, before, setting))
        else:
            outcomes.append(fit_example(example, fit))
    return _together(examples, outcomes, fit)


def fit_example(example: Example, fit: Fit) -> Outcome:
    """Cut an example that is too long, or say why it cannot be kept.

    Args:
        example: Of more than ``fit.max_length`` tokens.
        fit: What to do.
    """
    assert fit.max_length is not None
    if fit.truncation == "keep_start":
        return _cut(example, 0, _border(example, fit.max_length, -1), fit)
    if fit.truncation == "keep_end":
        first = _border(example, len(example) - fit.max_length, 1)
        return _cut(example, first, len(example), fit)
    remedy = {
        "error": "cut it with truncation drop_turns, keep_start or keep_end, leave it out with "
        "drop, or allow more",
        "drop": "truncation=drop leaves it out",
        "drop_turns": "truncation=drop_turns drops exchanges of conversations, and this row is "
        "none; keep_start and keep_end cut tokens of any row",
    }[fit.truncation]
    return Outcome(rejection=Rejection("too_long", f"{_too_long(example, fit)}: {remedy}", None))


def part_of(example: Example, first: int, end: int) -> Example:
    """Return tokens ``first:end`` of an example, every column of it, and their text."""
    offsets, weights = example.offsets[first:end], example.loss_weights[first:end]
    start = int(offsets[0, 0]) if first else 0
    stop = int(offsets[-1, 1]) if end < len(example) else len(example.text)
    spans = (_trimmed(span, (first, end), (start, stop)) for span in example.spans)
    return replace(
        example,
        text=example.text[start:stop],
        input_ids=example.input_ids[first:end],
        offsets=offsets - np.int32(start),
        loss_weights=weights,
        message_index=example.message_index[first:end],
        spans=tuple(s for s in spans if s and weights[s.token_start : s.token_end].any()),
        ignorable=None if example.ignorable is None else example.ignorable[first:end],
        parts=None if example.parts is None else example.parts[first:end],
    )


def _trimmed(span: Span, tokens: tuple[int, int], characters: tuple[int, int]) -> Span | None:
    """Return what is left of a span in a part of its example, None if nothing is."""
    (first, end), (start, stop) = tokens, characters
    if span.token_end <= first or end <= span.token_start:
        return None
    return Span(
        span.message_index,
        max(span.start, start) - start,
        min(span.end, stop) - start,
        max(span.token_start, first) - first,
        min(span.token_end, end) - first,
        span.stop if span.token_end <= end else None,
    )


def _border(example: Example, at: int, step: int) -> int:
    """Return the first border between tokens, from ``at`` on, that splits no character."""
    reached = np.maximum.accumulate(example.offsets[:, 1])
    text, starts = example.text, example.offsets[:, 0]
    while 0 < at < len(example):
        is_inside = starts[at] < reached[at - 1]
        halves = text[reached[at - 1] - 1 : reached[at - 1]] + text[starts[at] : starts[at] + 1]
        if not is_inside and halves != _HALF * 2:
            break
        at += step
    return at


def _cut(example: Example, first: int, end: int, fit: Fit) -> Outcome:
    """Keep tokens ``first:end`` of an example, and take the reply that is cut out of the loss."""
    cut = _cut_reply(example, first, end)
    lost = Lost(cut_replies=bool(cut))
    index = cut[0].message_index if cut else None
    if cut and fit.cut_reply == "drop":
        detail = f"{_too_long(example, fit)}, and the cut goes through a reply: cut_reply=drop"
        return Outcome(rejection=Rejection("reply_cut", detail, index), lost=lost)
    if first == end:
        return Outcome(rejection=_nothing_left(example, fit, cut), lost=lost)
    weights = example.loss_weights.copy()
    findings = [*example.findings, _finding(example, first, end, fit)]
    if cut:
        findings.append(Finding("reply_cut", _what_becomes(fit), cut[0].message_index))
        if fit.cut_reply == "mask":
            weights[cut[0].token_start : cut[-1].token_end] = 0
    part = part_of(replace(example, loss_weights=weights, findings=tuple(findings)), first, end)
    if not part.loss_weights[1:].any():  # nothing predicts the first token
        return Outcome(rejection=_nothing_left(example, fit, cut), lost=lost)
    return Outcome((part,), lost=lost)


def _cut_reply(example: Example, first: int, end: int) -> tuple[Span, ...]:
    """Return the reply of which the cut takes the beginning, or supervised tokens at the end."""
    for reply in replies_of(example):
        start, behind = reply[0].token_start, reply[-1].token_end
        loses_its_end = start < end and bool(example.loss_weights[end:behind].any())
        if loses_its_end or start < first < behind:
            return reply
    return ()


def replies_of(example: Example) -> list[tuple[Span, ...]]:
    """Return the supervised turns: spans, and ranges of a text that touch without a stop."""
    replies: list[tuple[Span, ...]] = []
    for span in example.spans:
        last = replies[-1][-1] if replies else None
        if last and last.stop is None and last.token_end == span.token_start:
            replies[-1] = (*replies[-1], span)
        else:
            replies.append((span,))
    return replies


def _finding(example: Example, first: int, end: int, fit: Fit) -> Finding:
    count = len(example) - (end - first)
    if first:
        return Finding(
            "context_cut",
            f"the first {count} of {len(example)} tokens are cut off, so that no token has before "
            f"it what inference would have: max_length {fit.max_length}, truncation=keep_end",
            -1,
        )
    detail = f"the last {count} of {len(example)} tokens are cut off: max_length {fit.max_length}"
    return Finding("end_cut", detail, -1)


def _what_becomes(fit: Fit) -> str:
    what = "it is not trained" if fit.cut_reply == "mask" else "what is left of it is trained"
    return f"the cut goes through this reply; {what}: cut_reply={fit.cut_reply}"


def _too_long(example: Example, fit: Fit) -> str:
    return f"an example has {len(example)} tokens, max_length is {fit.max_length}"


def _nothing_left(example: Example, fit: Fit, cut: Sequence[Span]) -> Rejection:
    masked = "the only reply there is cut, which cut_reply=mask takes out of the loss"
    why = masked if cut and fit.cut_reply == "mask" else "no supervised token is among them"
    return Rejection(
        "nothing_left",
        f"{_too_long(example, fit)}; of those that {fit.truncation} keeps nothing is left to "
        f"train: {why}",
        cut[0].message_index if cut else None,
    )


def _together(examples: Sequence[Example], outcomes: Sequence[Outcome], fit: Fit) -> Outcome:
    """Put together what became of each example of a row."""
    rejections = [each.rejection for each in outcomes if each.rejection is not None]
    if fit.truncation == "error":
        outcomes = [Outcome(rejection=rejections[0])] * len(examples)
    kept = [example for outcome in outcomes for example in outcome.examples]
    lost = Lost(
        tokens=sum(map(len, examples)) - sum(map(len, kept)),
        supervised_tokens=_supervised(examples) - _supervised(kept),
        turns=_turns(examples) - _turns(kept),
        examples=sum(outcome.rejection is not None for outcome in outcomes),
        cut_replies=sum(outcome.lost.cut_replies for outcome in outcomes),
    )
    if not kept:
        return Outcome(rejection=rejections[0], lost=lost)
    findings = [*kept[0].findings]
    if outcomes[0].rejection is not None:  # the first example carries what is about the others
        own = {span.message_index for span in examples[0].spans}
        findings += [each for each in examples[0].findings if each.message_index not in own]
    for each in rejections:
        index = -1 if each.message_index is None else each.message_index
        detail = f"one of the row's {len(examples)} examples is left out: {each.detail}"
        findings.append(Finding("example_dropped", detail, index))
    return Outcome((replace(kept[0], findings=tuple(findings)), *kept[1:]), lost=lost)


def _supervised(examples: Sequence[Example]) -> int:
    return sum(example.supervised_count for example in examples)


def _turns(examples: Sequence[Example]) -> int:
    return sum(len(replies_of(example)) for example in examples)
