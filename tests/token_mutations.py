"""Faults in what is made of the characters: tokens, examples, weights. See ``mutations``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lossmask import conversation, laying_out, pipeline, turn_tokens, turns, weighting
from lossmask.example import Example
from lossmask.normalised_text import NormalisedText
from lossmask.policy import PARTS
from lossmask.turn_tokens import TokenizedTurn
from lossmask.weighting import Weigher
from tests.mutations import Mutant, Patch, becomes, both, returns


def _end_moved(by: int) -> Callable[..., list[TokenizedTurn]]:
    def change(tokenized: list[TokenizedTurn], *_: Any, **__: Any) -> list[TokenizedTurn]:
        return [replace(turn, completion_end=turn.completion_end + by) for turn in tokenized]

    return change


def _start_moved(by: int) -> Callable[..., list[TokenizedTurn]]:
    def change(tokenized: list[TokenizedTurn], *_: Any, **__: Any) -> list[TokenizedTurn]:
        return [replace(turn, prompt_length=turn.prompt_length + by) for turn in tokenized]

    return change


def _searched(by: int) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        class Numpy:
            def __getattr__(self, name: str) -> Any:
                return getattr(np, name)

            def searchsorted(self, *args: Any) -> Any:
                return np.searchsorted(*args) + by

        monkeypatch.setattr(turn_tokens, "np", Numpy())

    return patch


def _shortened(intervals: Any, *_: Any) -> Any:
    """Give all tokens of one character but the first an empty interval behind it."""
    again = np.append(False, (intervals[1:, 0] == intervals[:-1, 0]))
    intervals[again, 0] = intervals[again, 1]
    return intervals


ALIGNMENT = [
    Mutant(
        "alignment: the search for the end is one token short",
        _searched(-1),
        "refused",
    ),
    Mutant("alignment: the search for the end is one token long", _searched(1), "refused"),
    Mutant(
        "alignment: the loss ends one token early",
        returns(laying_out, "tokenize_turns", _end_moved(-1)),
        "wrong",
    ),
    Mutant(
        "alignment: the loss ends one token late",
        returns(laying_out, "tokenize_turns", _end_moved(1)),
        "wrong",
    ),
    Mutant(
        "alignment: the loss begins one token early",
        returns(laying_out, "tokenize_turns", _start_moved(-1)),
        "wrong",
    ),
    Mutant(
        "alignment: the loss begins one token late",
        returns(laying_out, "tokenize_turns", _start_moved(1)),
        "wrong",
    ),
    Mutant(
        "alignment: tokens across the border are not noticed",
        becomes(turn_tokens, "_splits_at", lambda *_: True),
        "wrong",
        "plain text, a space before the answer",
    ),
    Mutant(
        "alignment: every border counts as inside a token",
        becomes(turn_tokens, "_splits_at", lambda *_: False),
        "wrong",
    ),
    Mutant(
        "alignment: only the first token of a character has it",
        returns(NormalisedText, "intervals", _shortened),
        "wrong",
        "nothing behind the last answer",
    ),
    Mutant(
        "alignment: tokens have the bytes for characters",
        becomes(
            NormalisedText,
            "intervals",
            lambda self, starts, ends: np.stack([starts, ends], axis=1).astype(np.int32),
        ),
        "refused",
    ),
]


def _groups(change: Callable[[list[list[TokenizedTurn]]], Any]) -> Patch:
    return returns(laying_out, "share_examples", lambda shared, *_: (change(shared[0]), shared[1]))


def _with_weights(change: Callable[[Example], Any]) -> Patch:
    return returns(
        pipeline,
        "build_example",
        lambda example, *_: replace(example, loss_weights=change(example)),
    )


def _weights_of_next(example: Example) -> Any:
    weights = np.zeros(len(example), np.float32)
    own = [example.loss_weights[span.token_start] for span in example.spans]
    for span, weight in zip(example.spans, [*own[1:], own[0]], strict=True):
        weights[span.token_start : span.token_end] = weight
    return weights


def _only_last_span(example: Example) -> Any:
    weights = np.zeros(len(example), np.float32)
    last = example.spans[-1]
    weights[last.token_start : last.token_end] = 1
    return weights


EXPANSION = [
    Mutant(
        "expansion: every turn is taken for one that the last rendering holds",
        becomes(turn_tokens, "_holds", lambda base, turn: True),
        "wrong",
        "reasoning kept after the last user turn only",
    ),
    Mutant("expansion: a group loses its first turn", _groups(lambda g: [g[0][-1:]]), "wrong"),
    Mutant(
        "expansion: a turn that stands apart is lost",
        _groups(lambda groups: groups[:1]),
        "wrong",
        "reasoning kept after the last user turn only",
    ),
    Mutant(
        "expansion: a turn is supervised in two examples",
        _groups(lambda groups: [*groups, [groups[0][0]]]),
        "wrong",
    ),
    Mutant(
        "expansion: the weights are those of the next turn",
        _with_weights(_weights_of_next),
        "wrong",
    ),
    Mutant("expansion: only the last turn has weights", _with_weights(_only_last_span), "wrong"),
    Mutant(
        "expansion: the weights are one token late",
        _with_weights(lambda example: np.roll(example.loss_weights, 1)),
        "wrong",
    ),
]


def _attributed(change: Callable[[Example], Any]) -> Patch:
    return returns(
        pipeline,
        "build_example",
        lambda example, *_: replace(example, message_index=change(example)),
    )


DATA = [
    Mutant(
        "data: control tokens in messages are not noticed",
        both(
            becomes(turns, "refuse_control_tokens", lambda *_: None),
            becomes(laying_out, "check_control_ids", lambda *_: None),
        ),
        "wrong",
    ),
    Mutant(
        "data: half a character is not noticed",
        becomes(turns, "refuse_surrogates", lambda *_: None),
        "refused",
    ),
    Mutant(
        "data: tokens are attributed to the message behind",
        _attributed(lambda e: np.where(e.message_index >= 0, e.message_index + 1, -1)),
        "wrong",
    ),
    Mutant(
        "data: attribution is one token late",
        _attributed(lambda example: np.roll(example.message_index, 1)),
        "wrong",
    ),
    Mutant(
        "data: messages that are not to be trained are",
        returns(conversation, "read_weights", lambda read, *_: (read[0], None, read[2])),
        "wrong",
    ),
    Mutant(
        "data: the last message is never trained",
        returns(
            pipeline,
            "trained_messages",
            lambda trained, *_: dict(list(trained.items())[:-1]) or trained,
        ),
        "wrong",
    ),
    Mutant(
        "data: spans name the message behind",
        returns(
            pipeline,
            "build_example",
            lambda example, *_: replace(
                example,
                spans=tuple(
                    replace(span, message_index=span.message_index + 1) for span in example.spans
                ),
            ),
        ),
        "wrong",
    ),
]


TOKEN_MUTANTS = [*ALIGNMENT, *EXPANSION, *DATA]


def _last_characters(text: str, offsets: Any) -> Any:
    return np.clip(offsets[:, 1] - 1, 0, len(text) - 1)


def _first_characters(text: str, offsets: Any) -> Any:
    return np.clip(offsets[:, 0], 0, len(text) - 1)


WEIGHT_MUTANTS = [  # parity does not see them: ``test_weighting_cases`` does
    Mutant(
        "weights: a stop token is content",
        returns(
            weighting,
            "parts_of",
            lambda parts, *_, **__: np.where(
                parts == PARTS.index("stop"), PARTS.index("content"), parts
            ),
        ),
        "wrong",
    ),
    Mutant(
        "weights: that of the row is ignored",
        becomes(weighting, "in_float32", lambda weights, _: weights.astype(np.float32)),
        "wrong",
    ),
    Mutant(
        "weights: those of messages are ignored",
        returns(pipeline, "trained_messages", lambda trained, *_: dict.fromkeys(trained, 1.0)),
        "wrong",
    ),
    Mutant(
        "weights: a range is one character late",
        returns(Weigher, "inside", lambda inside, *_: np.roll(inside, 1)),
        "wrong",
    ),
    Mutant(
        "weights: the last character of a token decides",
        becomes(weighting, "first_visible", _last_characters),
        "wrong",
    ),
    Mutant(
        "weights: the first character of a token decides, white space or not",
        becomes(weighting, "first_visible", _first_characters),
        "wrong",
    ),
    Mutant(
        "weights: context that examples repeat counts in each",
        becomes(weighting, "_shared", lambda *_: 0),
        "wrong",
    ),
    Mutant(
        "weights: the loss scale is ignored",
        returns(Weigher, "loss_scale", lambda scale, *_: np.ones_like(scale)),
        "wrong",
    ),
    Mutant(
        "weights: a think tag of another message opens a block",
        becomes(weighting, "own_beginning", lambda turn: turn.text[: turn.prompt_end]),
        "wrong",
    ),
]
