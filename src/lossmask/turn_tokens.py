r"""Turns -> token ids, and which turns can share one example.

In: the :class:`Turn` s of one conversation. Out: groups of turns; each group is one example. A turn
may share an example only if the ids before and in its completion are exactly those of the turn
alone: ``ids[:k] == ids(prompt) + ids(completion)``. So everything supervised is preceded by what
inference would have before it.

That holds for ``boundary="inference"``, whatever the tokenizer does at the end of a prompt. Where
the tokens of the whole text do not begin with those of the prompt, ``Policy.boundary`` decides. A
token may span the border (``?b``, where ``a?`` is the prompt and ``b`` the completion)::

    inference    a  ?  b      tokenized apart; the loss is on "b"
    include      a  ?b        tokenized together; the loss is on "?b"
    exclude      a  ?b        tokenized together; no loss on "?b", but on what comes behind it
    error                     the conversation is rejected

Or no token does, but the end of the prompt is tokenized differently once text follows it (GPT-2
makes one token of ``\n\n`` at the end of a text and two before a word). Then ``inference``
still gives the prompt's own ids, ``include`` and ``exclude`` both give the tokens of the whole text
with the loss from the border on, and ``error`` rejects this as well: what precedes the completion
is not what inference would have. All but ``error`` report a finding ``boundary_straddle``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lossmask.completions import Turn
from lossmask.errors import ParityError, TokenizerError
from lossmask.example import Finding
from lossmask.policy import Policy
from lossmask.protocols import AnyTokenizer
from lossmask.tokenizing import Tokens

Boundary = Literal["inference", "include", "exclude", "error"]

_REPORTED: dict[Boundary, str] = {
    "inference": "prompt and completion are tokenized apart, as inference does",
    "include": 'the tokens of the whole text are kept, with the loss on it: boundary="include"',
    "exclude": 'the tokens of the whole text are kept, with no loss on it: boundary="exclude"',
    "error": 'the policy is boundary="error"; "inference" would tokenize the two apart',
}


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedTurn:
    """A turn with the tokens of its own text.

    Attributes:
        turn: The turn.
        tokens: Tokens of ``turn.text``.
        start: Character at which what is supervised begins: the end of the prompt, unless
            ``include`` or ``exclude`` keep a token across it.
        prompt_length: Tokens before that; those of the prompt alone, unless ``include`` or
            ``exclude`` keep others.
        completion_end: Tokens up to the end of the completion.
        findings: Those of the turn, and a straddle if there is one.
    """

    turn: Turn
    tokens: Tokens
    start: int
    prompt_length: int
    completion_end: int
    findings: tuple[Finding, ...]


def tokenize_turns(
    turns: Sequence[Turn],
    tokenizer: AnyTokenizer,
    stop_ids: frozenset[int],
    *,
    boundary: Boundary = "inference",
) -> list[TokenizedTurn]:
    """Tokenize prompts and texts of all turns in one call.

    Args:
        turns: The turns.
        tokenizer: The tokenizer.
        stop_ids: Tokens at which inference ends a turn.
        boundary: What to do where the tokens of a turn's text do not begin with its prompt's.

    Raises:
        ParityError: A border cannot be placed between tokens, the stop text is no stop token, the
            tokenizer makes no token of a prompt or a completion, or ``boundary="error"``.
        TokenizerError: The tokens of a text do not spell it.
    """
    prompts = [turn.text[: turn.prompt_end] for turn in turns]
    try:
        encoded = tokenizer.encode(
            [*prompts, *(turn.text for turn in turns)],
            [
                *(turn.origins[: turn.prompt_end] for turn in turns),
                *(turn.origins for turn in turns),
            ],
        )
    except TokenizerError as error:
        raise _with_turn(error, turns, tokenizer) from error
    return [
        _tokenize_turn(turn, prompt, joint, tokenizer, stop_ids, boundary)
        for turn, prompt, joint in zip(
            turns, encoded[: len(turns)], encoded[len(turns) :], strict=True
        )
    ]


def _with_turn(
    error: TokenizerError, turns: Sequence[Turn], tokenizer: AnyTokenizer
) -> TokenizerError:
    """Return the error with the first turn whose text it is about."""
    for turn in turns:
        try:
            tokenizer.encode([turn.text], [turn.origins])
        except TokenizerError as own:
            return TokenizerError(own.detail, reason=own.reason, message_index=turn.message_index)
    return error


def _tokenize_turn(
    turn: Turn,
    prompt: Tokens,
    joint: Tokens,
    tokenizer: AnyTokenizer,
    stop_ids: frozenset[int],
    boundary: Boundary,
) -> TokenizedTurn:
    _check_not_empty(turn, prompt, joint)
    tokens, first, start, findings = joint, len(prompt), turn.prompt_end, turn.findings
    if not _splits_at(joint, prompt, turn.prompt_end):
        finding = _straddle(turn, prompt, joint, boundary)
        findings += (finding,)
        if boundary == "error":
            raise ParityError(finding.detail, reason=finding.kind, message_index=turn.message_index)
        if boundary == "inference":
            tokens = _tokenize_apart(turn, prompt, tokenizer)
        else:
            first, start = _first_kept(joint, turn.prompt_end, boundary)
    end = first + int(np.searchsorted(tokens.offsets[first:, 0], np.int32(turn.completion_end)))
    if end <= first:
        raise _nothing_left(turn, "comes out as no token that is in the loss")
    if turn.stop is not None and int(tokens.ids[end - 1]) not in stop_ids:
        raise ParityError(
            f"the completion ends with the text {turn.stop!r}, but its last token is not a stop "
            f"token (id {int(tokens.ids[end - 1])})",
            reason="stop_not_a_token",
            message_index=turn.message_index,
        )
    findings += _unknown(turn, tokens, first, end, tokenizer)
    return TokenizedTurn(turn, tokens, start, first, end, findings)


def _unknown(
    turn: Turn, tokens: Tokens, first: int, end: int, tokenizer: AnyTokenizer
) -> tuple[Finding, ...]:
    """Notice characters of a completion that the tokenizer has no token for."""
    unknown_id = getattr(tokenizer.tokenizer, "unk_token_id", None)
    if unknown_id is None:
        return ()
    unknown = str(tokenizer.tokenizer.unk_token)
    found = first + np.flatnonzero(tokens.ids[first:end] == unknown_id)
    texts = [turn.text[start:stop] for start, stop in tokens.offsets[found].tolist()]
    lost = sorted({text for text in texts if unknown not in text})  # it may take spaces with it
    if not lost:
        return ()
    return (
        Finding(
            "unknown_token",
            f"the tokenizer has no token for {', '.join(map(repr, lost[:5]))}: the model learns to "
            f"write {unknown!r} instead",
            turn.message_index,
        ),
    )


def _check_not_empty(turn: Turn, prompt: Tokens, joint: Tokens) -> None:
    """Refuse a prompt or completion that the tokenizer drops, as some drop white space."""
    if not len(prompt):
        raise ParityError(
            f"the tokenizer makes no token of the prompt {turn.text[: turn.prompt_end]!r}: there "
            "is nothing for inference to begin with",
            reason="no_prompt",
            message_index=turn.message_index,
        )
    is_all = len(prompt) == len(joint) and joint.begin_with(prompt)
    if is_all and int(prompt.offsets[-1, 1]) >= int(joint.offsets[-1, 1]):
        raise _nothing_left(turn, "is dropped by the tokenizer")


def _nothing_left(turn: Turn, why: str) -> ParityError:
    completion = turn.text[turn.prompt_end : turn.completion_end]
    return ParityError(
        f"nothing is left to train: all of the completion {completion!r} {why}",
        reason="nothing_generated",
        message_index=turn.message_index,
    )


def _splits_at(joint: Tokens, prompt: Tokens, border: int) -> bool:
    """Return whether the joint tokens begin with the prompt's and none crosses the border."""
    n = len(prompt)
    return (
        n < len(joint)
        and joint.begin_with(prompt)
        and int(joint.offsets[n - 1, 1]) <= border <= int(joint.offsets[n, 0])
    )


def _straddle(turn: Turn, prompt: Tokens, joint: Tokens, boundary: Boundary) -> Finding:
    """Say what happens to the tokens at the end of the prompt once the completion follows."""
    border = turn.prompt_end
    starts, ends = joint.offsets[:, 0], joint.offsets[:, 1]
    across = np.flatnonzero((starts < border) & (border < ends))
    n = min(len(prompt), len(joint))
    differs = np.flatnonzero(prompt.ids[:n] != joint.ids[:n])
    k = int([*across, *differs, n - 1][0])
    token = f"the token {turn.text[starts[k] : ends[k]]!r} (id {int(joint.ids[k])})"
    what = (
        f"{token} of the whole text spans the end of the prompt, at "
        f"{turn.text[max(0, border - 8) : border + 8]!r}"
        if across.size
        else f"the end of the prompt is tokenized differently once the completion follows it, from "
        f"{token} on"
    )
    return Finding("boundary_straddle", f"{what}: {_REPORTED[boundary]}", turn.message_index)


def _first_kept(joint: Tokens, border: int, boundary: Boundary) -> tuple[int, int]:
    """Return the first token in the loss, of tokens that are not the prompt's, and its character.

    The first that reaches beyond the border (``include``) or that begins behind it (``exclude``),
    moved so that the tokens of one character stay together.
    """
    starts, ends = joint.offsets[:, 0], joint.offsets[:, 1]
    behind = int(np.searchsorted(starts, border))
    across = np.flatnonzero(ends[:behind] > border)
    if not across.size:
        return behind, border
    first = behind
    if boundary == "include":
        first = int(across[0])
        while first and ends[first - 1] > starts[first]:
            first -= 1
    else:
        while first < len(joint) and starts[first] < ends[:first].max():
            first += 1
    return first, int(starts[first]) if first < len(joint) else border


def _tokenize_apart(turn: Turn, prompt: Tokens, tokenizer: AnyTokenizer) -> Tokens:
    border = turn.prompt_end
    try:
        rest = tokenizer.continuation(turn.text[:border], turn.text[border:], turn.origins[border:])
    except ParityError as error:
        raise ParityError(
            error.detail, reason=error.reason, message_index=turn.message_index
        ) from error
    return Tokens(
        np.concatenate([prompt.ids, rest.ids]),
        np.concatenate([prompt.offsets, rest.offsets + np.int32(turn.prompt_end)]),
    )


def share_examples(
    turns: Sequence[TokenizedTurn], policy: Policy
) -> tuple[list[list[TokenizedTurn]], tuple[Finding, ...]]:
    """Group turns into examples; the last turn of each group gives the example its text.

    Works from the last turn backwards: its example takes every earlier turn it holds at parity,
    then the latest turn left over begins the next one. Each turn is in at most one group.

    Args:
        turns: Ascending by message.
        policy: ``history`` decides about the turns that the first group does not hold.

    Returns:
        The groups, and a finding for each turn that ``history="last"`` leaves out.

    Raises:
        ParityError: ``history="error"`` and some turn is left over.
    """
    groups: list[list[TokenizedTurn]] = []
    left = list(turns)
    while left:
        base = left[-1]
        is_held = [turn is base or _holds(base, turn) for turn in left]
        groups.append([turn for turn, held in zip(left, is_held, strict=True) if held])
        left = [turn for turn, held in zip(left, is_held, strict=True) if not held]
    if len(groups) == 1 or policy.history == "expand":
        return groups, ()
    if policy.history == "error":
        index = groups[1][-1].turn.message_index
        raise ParityError(
            "the template shows this turn differently once the conversation goes on, and the "
            'policy is history="error"',
            reason="history_rewritten",
            message_index=index,
        )
    return groups[:1], tuple(
        Finding(
            "history_rewritten",
            "not trained: the template shows this turn differently once the conversation goes on, "
            'and the policy is history="last"',
            turn.turn.message_index,
        )
        for group in groups[1:]
        for turn in group
    )


def _holds(base: TokenizedTurn, turn: TokenizedTurn) -> bool:
    end = turn.completion_end
    text_end = turn.turn.completion_end
    ids, own = base.tokens.ids, turn.tokens.ids
    if len(ids) < end or ids[end - 1] != own[end - 1]:
        return False
    is_alike = turn.tokens.base is base.tokens and end <= turn.tokens.shared
    is_within = turn.turn.places is base.turn.places and text_end <= len(base.turn.text)
    return (is_alike or np.array_equal(ids[:end], own[:end])) and (
        is_within or base.turn.text[:text_end] == turn.turn.text[:text_end]
    )
