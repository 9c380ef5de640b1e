"""Turns -> token ids, and which turns can share one example.

In: the :class:`Turn` s of one conversation. Out: groups of turns; each group is one example. A
turn may
share an example only if the ids before and in its completion are exactly those of the turn alone:
``ids[:k] == ids(prompt) + ids(completion)``. So everything supervised is preceded by what inference
would have before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossmask.completions import Turn
from lossmask.errors import ParityError
from lossmask.example import Finding
from lossmask.policy import Policy
from lossmask.tokenizing import TextTokenizer, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedTurn:
    """A turn with the tokens of its own text.

    Attributes:
        turn: The turn.
        tokens: Tokens of ``turn.text``; the first ``prompt_length`` are those of the prompt alone.
        prompt_length: Tokens of the prompt.
        completion_end: Tokens up to the end of the completion.
        findings: Those of the turn, and a straddle if there is one.
    """

    turn: Turn
    tokens: Tokens
    prompt_length: int
    completion_end: int
    findings: tuple[Finding, ...]


def tokenize_turns(
    turns: Sequence[Turn], tokenizer: TextTokenizer, stop_ids: frozenset[int]
) -> list[TokenizedTurn]:
    """Tokenize prompts and texts of all turns in one call.

    Raises:
        ParityError: A border cannot be placed between tokens, or the stop text is no stop token.
        TokenizerError: The tokenizer's offsets cannot be used.
    """
    prompts = [turn.text[: turn.prompt_end] for turn in turns]
    encoded = tokenizer.encode([*prompts, *(turn.text for turn in turns)])
    return [
        _tokenize_turn(turn, prompt, joint, tokenizer, stop_ids)
        for turn, prompt, joint in zip(
            turns, encoded[: len(turns)], encoded[len(turns) :], strict=True
        )
    ]


def _tokenize_turn(
    turn: Turn, prompt: Tokens, joint: Tokens, tokenizer: TextTokenizer, stop_ids: frozenset[int]
) -> TokenizedTurn:
    findings = turn.findings
    tokens = joint
    if not _splits_at(joint, prompt, turn.prompt_end):
        tokens = _tokenize_apart(turn, prompt, tokenizer)
        findings += (
            Finding(
                "boundary_straddle",
                f"a token of the joint text spans the end of the prompt, at "
                f"{turn.text[max(0, turn.prompt_end - 8) : turn.prompt_end + 8]!r}: prompt and "
                "completion are tokenized apart, as inference does",
                turn.message_index,
            ),
        )
    starts = tokens.offsets[:, 0]
    end = int(np.searchsorted(starts, turn.completion_end))
    if turn.stop is not None and int(tokens.ids[end - 1]) not in stop_ids:
        raise ParityError(
            f"the completion ends with the text {turn.stop!r}, but its last token is not a stop "
            f"token (id {int(tokens.ids[end - 1])})",
            reason="stop_not_a_token",
            message_index=turn.message_index,
        )
    return TokenizedTurn(turn, tokens, len(prompt), end, findings)


def _splits_at(joint: Tokens, prompt: Tokens, border: int) -> bool:
    """Return whether the joint tokens begin with the prompt's and none crosses the border."""
    n = len(prompt)
    return (
        n < len(joint)
        and np.array_equal(joint.ids[:n], prompt.ids)
        and int(joint.offsets[n - 1, 1]) <= border <= int(joint.offsets[n, 0])
    )


def _tokenize_apart(turn: Turn, prompt: Tokens, tokenizer: TextTokenizer) -> Tokens:
    rest = tokenizer.continuation(turn.text[turn.prompt_end :])
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
        group = [turn for turn in left if turn is base or _holds(base, turn)]
        groups.append(group)
        left = [turn for turn in left if turn not in group]
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
    return (
        len(base.tokens) >= end
        and np.array_equal(base.tokens.ids[:end], turn.tokens.ids[:end])
        and base.turn.text[:text_end] == turn.turn.text[:text_end]
    )
