r"""Formatted text + weighted character ranges -> an example.

In: text and which of its characters are in the loss. Out: an :class:`Example` whose ids are those
of ``tokenizer(text)``, the special tokens that the tokenizer itself puts around text included. Only
where the tokens of the whole text do not begin with those of the text up to a range, which is the
prompt that inference would have, ``boundary`` decides, as it does for chats (see ``turn_tokens``)::

    text         Is it?\n\n### A:\n\nYes    the range is "\nYes"
    inference    … :   \n    \n   Yes       tokenized apart; the loss is on "\n" "Yes"
    include      … :   \n\n       Yes       tokenized together; the loss is on "\n\n" "Yes"
    exclude      … :   \n\n       Yes       tokenized together; the loss is on "Yes"
    error                                   the row is rejected

A token that spans another border has the weight of its first character that is not white space.
The tokens of one character are weighted alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from lossmask.errors import InputError, ParityError, TokenizerError
from lossmask.example import Example, Finding, Span
from lossmask.tokenizing import Ids, TextTokenizer, Tokens
from lossmask.turn_tokens import Boundary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_RANGE = -1
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class WeightedRange:
    """Characters of a text and their weight in the loss, half-open."""

    start: int
    end: int
    weight: float


def encode_text(
    text: str,
    ranges: Sequence[Mapping[str, Any]],
    tokenizer: TextTokenizer,
    *,
    boundary: Boundary = "inference",
    stop_ids: frozenset[int] = frozenset(),
) -> Example:
    """Encode formatted text.

    Args:
        text: The text, as it is to be tokenized.
        ranges: ``{"start", "end", "weight"}`` each: half-open characters of ``text``, ascending,
            disjoint; without ``weight`` it is 1.0. All other characters are out of the loss. Where
            the last one ends with the text, what the tokenizer puts behind text has its weight.
        tokenizer: The tokenizer.
        boundary: What to do where the tokens of the text do not begin with those of the text
            before a range.
        stop_ids: Tokens at which inference ends a turn, besides the tokenizer's eos.

    Returns:
        An example of n tokens; ``message_index`` and ``spans`` number the ranges.

    Raises:
        InputError: The ranges do not fit the text, or none of them is in the loss.
        ParityError: A border cannot be placed between tokens, ``boundary="error"``, or no token is
            left of a range and those that touch it.
        TokenizerError: The tokens do not spell the text.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> from lossmask.encoder import load_tokenizer
        >>> tokenizer = TextTokenizer(load_tokenizer(DEMO_MODEL))
        >>> encode_text("Q: 1+1? A: 2", [{"start": 10, "end": 12}], tokenizer).supervised_text
        [' 2']
    """
    weighted = checked_ranges(text, ranges)
    tokens, findings = _tokenize(text, weighted, tokenizer, boundary)
    if not len(tokens):
        raise _nothing_left(text, weighted[0], 0)
    owner = _owners(text, tokens, weighted, boundary)
    before, behind = _added_around(tokenizer.tokenizer, text, tokens.ids)
    last = len(weighted) - 1 if weighted[-1].end == len(text) else _NO_RANGE
    padding = (len(before), len(behind))
    owner = np.concatenate([np.full(len(before), _NO_RANGE), owner, np.full(len(behind), last)])
    offsets = np.pad(tokens.offsets, (padding, (0, 0)))
    offsets[len(offsets) - len(behind) :] = len(text)
    ids = np.concatenate([before, tokens.ids, behind])
    spans = _spans(text, weighted, owner, offsets)
    doubled = _doubled(tokenizer.tokenizer, before, tokens.ids, behind)
    spans, unstopped = _stopped(spans, ids, tokenizer.tokenizer, stop_ids)
    by_range = np.array([*(each.weight for each in weighted), 0], np.float32)  # [-1]: no range
    return Example(
        text=text,
        input_ids=ids.astype(np.int32),
        offsets=offsets.astype(np.int32),
        loss_weights=by_range[owner],
        message_index=owner.astype(np.int32),
        spans=spans,
        findings=(*findings, *unstopped, *doubled),
    )


def checked_ranges(text: str, ranges: Sequence[Mapping[str, Any]]) -> tuple[WeightedRange, ...]:
    """Return the ranges of a text, checked.

    Raises:
        InputError: A range lies outside the text or before the end of the one before it, a value
            is of the wrong kind (``bad_ranges``), or no character is in the loss
            (``nothing_to_train``).
    """
    if not isinstance(text, str):
        raise InputError(f"expected text, got {type(text).__name__}")
    checked: list[WeightedRange] = []
    at = 0
    for place, each in enumerate(ranges):
        start, end, weight = each.get("start"), each.get("end"), each.get("weight", 1.0)
        if not _is_whole(start) or not _is_whole(end) or not at <= start <= end <= len(text):
            raise InputError(
                f"range {place} goes from {start!r} to {end!r}; expected whole numbers, ascending, "
                f"from {at} to the {len(text)} characters of the text",
                reason="bad_ranges",
            )
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise InputError(
                f"range {place} has the weight {weight!r}; expected a finite number",
                reason="bad_ranges",
            )
        checked.append(WeightedRange(start, end, float(weight)))
        at = end
    if not any(each.weight and each.start < each.end for each in checked):
        raise InputError(
            "no character of the text is in the loss: it has no range with a weight",
            reason="nothing_to_train",
        )
    return tuple(checked)


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


def _runs(ranges: Sequence[WeightedRange]) -> list[list[int]]:
    """Return the numbers of the ranges in the loss, those that touch each other together."""
    runs: list[list[int]] = []
    reached = -1
    for place, each in enumerate(ranges):
        if each.weight and each.start < each.end:
            if each.start == reached:
                runs[-1].append(place)
            else:
                runs.append([place])
            reached = each.end
    return runs


def _borders(ranges: Sequence[WeightedRange]) -> dict[int, int]:
    """Return where a prompt ends, each with the number of the range that follows it; ascending."""
    return {ranges[run[0]].start: run[0] for run in _runs(ranges) if ranges[run[0]].start}


def _tokenize(
    text: str, ranges: Sequence[WeightedRange], tokenizer: TextTokenizer, boundary: Boundary
) -> tuple[Tokens, list[Finding]]:
    """Tokenize text so that a token begins at each border, as far as ``boundary`` asks for it."""
    borders = _borders(ranges)
    starts = [*borders, len(text)]
    *prompts, joint = tokenizer.encode([text[:start] for start in starts])
    if all(_begins_with(joint, prompts[k], starts[k]) for k in range(len(prompts))):
        return joint, []
    findings: list[Finding] = []
    made = prompts[0]
    for k, (prompt, further) in enumerate(zip(prompts, [*prompts[1:], joint], strict=True)):
        border, end = starts[k], starts[k + 1]
        if not _begins_with(further, prompt, border):
            findings.append(_straddle(text, border, borders[border], boundary))
        if _begins_with(further, made, border):
            made = further
        elif boundary == "inference":
            made = _continued(made, text, border, end, tokenizer)
    return (made if boundary == "inference" else joint), findings


def _begins_with(tokens: Tokens, beginning: Tokens, border: int) -> bool:
    """Return whether tokens begin with others, and none of them crosses the border."""
    n = len(beginning)
    return (
        n < len(tokens)
        and np.array_equal(tokens.ids[:n], beginning.ids)
        and bool((tokens.offsets[:n, 1] <= border).all())
        and border <= int(tokens.offsets[n, 0])
    )


def _continued(made: Tokens, text: str, border: int, end: int, tokenizer: TextTokenizer) -> Tokens:
    """Add the tokens of ``text[border:end]`` to those of the text before it."""
    rest = tokenizer.continuation(text[:border], text[border:end])
    return Tokens(
        np.concatenate([made.ids, rest.ids]),
        np.concatenate([made.offsets, rest.offsets + np.int32(border)]),
    )


def _straddle(text: str, border: int, place: int, boundary: Boundary) -> Finding:
    """Say where text is tokenized unlike its beginning.

    Raises:
        ParityError: The policy is ``boundary="error"``.
    """
    around = text[max(0, border - 8) : border + 8]
    detail = (
        f"the text before range {place} is tokenized differently once the range follows it, at "
        f"{around!r}: "
    )
    if boundary == "error":
        raise ParityError(
            f'{detail}the policy is boundary="error"; "inference" would tokenize the two apart',
            reason="boundary_straddle",
            message_index=place,
        )
    if boundary == "inference":
        detail += "the two are tokenized apart, as inference does"
    else:
        detail += f'the tokens of the whole text are kept: boundary="{boundary}"'
    return Finding("boundary_straddle", detail, place)


def _owners(
    text: str, tokens: Tokens, ranges: Sequence[WeightedRange], boundary: Boundary
) -> npt.NDArray[np.int64]:
    """Return the range whose weight each token has, -1 for none."""
    of_character = np.full(len(text) + 1, _NO_RANGE)
    for place, each in enumerate(ranges):
        of_character[each.start : each.end] = place
    if ranges[-1].end == len(text):
        of_character[len(text)] = len(ranges) - 1
    first = _first_of_groups(tokens.offsets)
    starts = tokens.offsets[first, 0]
    ends = np.maximum.reduceat(tokens.offsets[:, 1], first)
    visible = _next_visible(text)[starts]
    owner = of_character[np.where(visible < ends, visible, starts)]
    for border, place in _borders(ranges).items():
        across = (starts < border) & (border < ends)
        owner[across] = place if boundary == "include" else _NO_RANGE
    sizes = np.diff([*first.tolist(), len(tokens)])
    return np.repeat(owner, sizes)


def _first_of_groups(offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return the first token of each group that shares characters; one token each, mostly."""
    reached = np.maximum.accumulate(offsets[:, 1])
    return np.concatenate([[0], np.flatnonzero(offsets[1:, 0] >= reached[:-1]) + 1])


def _next_visible(text: str) -> npt.NDArray[np.int64]:
    """Return, for each character and the end, the first from it on that is not white space."""
    places = np.fromiter(
        (len(text) if c.isspace() else k for k, c in enumerate(text)), np.int64, len(text)
    )
    return np.minimum.accumulate(np.append(places, len(text))[::-1])[::-1]


def _spans(
    text: str,
    ranges: Sequence[WeightedRange],
    owner: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int32],
) -> tuple[Span, ...]:
    """Return the run of tokens of each range that is in the loss, its stop not yet known."""
    spans: list[Span] = []
    for run in _runs(ranges):
        known = len(spans)
        for place in run:
            tokens = np.flatnonzero(owner == place)
            if tokens.size:  # a token has one weight: a range inside of one may have no say
                first, behind = int(tokens[0]), int(tokens[-1]) + 1
                start, end = int(offsets[first, 0]), int(offsets[first:behind, 1].max())
                spans.append(Span(place, start, end, first, behind, None))
        if len(spans) == known:
            raise _nothing_left(text, ranges[run[0]], run[0])
    return tuple(spans)


def _nothing_left(text: str, each: WeightedRange, place: int) -> ParityError:
    return ParityError(
        f"nothing is left to train of range {place}, {text[each.start : each.end][:_SHOWN]!r}: no "
        "token has its weight",
        reason="nothing_generated",
        message_index=place,
    )


def _stopped(
    spans: Sequence[Span],
    ids: Ids,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
) -> tuple[tuple[Span, ...], list[Finding]]:
    """Name the stop token that ends each span, and report those that none ends."""
    stops = stop_ids | ({tokenizer.eos_token_id} - {None})
    stopped, findings = [], []
    for span in spans:
        last = int(ids[span.token_end - 1])
        stop = _name(tokenizer, last) if last in stops else None
        stopped.append(
            Span(span.message_index, span.start, span.end, span.token_start, span.token_end, stop)
        )
        if stop is None:
            detail = f"no stop token ends range {span.message_index}"
            findings.append(Finding("no_stop_token", detail, span.message_index))
    return tuple(stopped), findings


def _name(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    added = tokenizer.added_tokens_decoder
    return str(added[token_id]) if token_id in added else str(tokenizer.decode([token_id]))


def _doubled(
    tokenizer: PreTrainedTokenizerBase, before: Ids, ids: Ids, behind: Ids
) -> list[Finding]:
    """Report a special token that the tokenizer adds to text that already has it."""
    pairs = [(before[-1:], ids[:1], "begins"), (behind[:1], ids[-1:], "ends")]
    return [
        Finding(
            "special_token_doubled",
            f"the text {where} with {_name(tokenizer, int(own[0]))!r}, and the tokenizer adds "
            "another one, as tokenizer(text) does",
            _NO_RANGE,
        )
        for added, own, where in pairs
        if added.size and np.array_equal(added, own)
    ]


def _added_around(tokenizer: PreTrainedTokenizerBase, text: str, ids: Ids) -> tuple[Ids, Ids]:
    """Return the ids that the tokenizer itself puts before and behind text.

    Raises:
        TokenizerError: They depend on the text.
    """
    before, behind = _special_ids(tokenizer)
    if not tokenizer.is_fast:  # a fast one's post-processor never looks at the text
        whole = tokenizer(text, verbose=False)["input_ids"]
        plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if whole != [*before.tolist(), *plain, *behind.tolist()]:
            raise TokenizerError(
                f"the special tokens that this {type(tokenizer).__name__} adds depend on the text",
                reason="special_tokens_vary",
            )
    return before, behind


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """Return the ids put before and behind any text, told by a letter."""
    whole = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return np.array(whole[:start], np.int32), np.array(
                whole[start + len(plain) :], np.int32
            )
    raise TokenizerError(
        f"this {type(tokenizer).__name__} tokenizes text differently if it adds special tokens",
        reason="special_tokens_vary",
    )
