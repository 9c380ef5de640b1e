r"""How much each token of an example counts: the one writer of the loss.

In: the turns that share an example, what the data and the policy say. Out: a weight per token, and
which tokens may be left out by chance. A character's weight is::

    in a completion        part weight x loss scale x weight of the message
                           (a range that the data weighs replaces part and message weight)
    outside of them        weight of "prompt" where a message wrote it, of "scaffold" elsewhere
                           (0 where the data itself says so)

and all of it times the weight of the row. A message that only a range of its characters puts into
the loss has that range in a completion, the rest of it outside. A token of several characters
counts as its first one that is not white space, so that ``" word"`` counts as ``word``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.completions import Turn
from lossmask.conversation import Conversation
from lossmask.errors import ConversationError, ParityError
from lossmask.example import Span
from lossmask.message_weights import WeightedRange
from lossmask.parts import REASONING_PART, Parts, end_of_answer, parts_of, think_blocks
from lossmask.policy import PARTS, Policy
from lossmask.swift_loss_scale import weights_of_text
from lossmask.tokenizing import Ids, Offsets
from lossmask.traced_text import COARSE, leaf_of
from lossmask.turn_tokens import TokenizedTurn
from lossmask.weight_keys import string_at
from lossmask.white_space import is_visible
from lossmask.written import REASONING

Weights = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]
"""Weights before they are rounded, once, to float32."""


@dataclass(frozen=True, slots=True)
class Weigher:
    """Weighs the examples of one conversation.

    Attributes:
        conversation: What the data says.
        policy: What the policy says.
        trained: Weight of each trained message.
        terminators: Texts of the stop tokens, of which several in a row may end a turn.
    """

    conversation: Conversation
    policy: Policy
    trained: dict[int, float]
    terminators: tuple[str, ...] = ()

    def weigh(
        self, base: TokenizedTurn, turns: Sequence[TokenizedTurn], seen: Sequence[Ids] = ()
    ) -> tuple[Weights, Parts]:
        """Weigh the tokens of an example.

        Args:
            base: Gives it its text.
            turns: Those in the loss.
            seen: Ids of the examples of the same conversation before it: a token out of all
                completions counts in the first example that holds it and all before it.

        Returns:
            float32 (n,), and int8 (n,): the part of each token of a completion, -1 outside of them.

        Raises:
            ConversationError: A weight is too large or too small for float32.
            ParityError: Characters that the data weighs cannot be found, or are not trained.
        """
        tokens = base.tokens
        outside = self.outside(base.turn)
        weights: Exact = outside[first_visible(base.turn.text, tokens.offsets)]
        if weights.any():
            weights[: max((_shared(tokens.ids, ids) for ids in seen), default=0)] = 0
        trained = [t.turn.message_index for t in turns if self.trained[t.turn.message_index]]
        last = -1 if seen else max(trained, default=-1)
        parts: Parts = np.full(len(weights), -1, np.int8)
        for turn in turns:
            whole, span = turn.turn, slice(turn.prompt_length, turn.completion_end)
            characters, parts_of_it = self._of_completion(
                whole, is_last=whole.message_index == last
            )
            text = whole.text[whole.prompt_end : whole.completion_end]
            offsets = tokens.offsets[span] - np.int32(whole.prompt_end)
            counted = first_visible(text, offsets)
            weights[span], parts[span] = characters[counted], parts_of_it[counted]
        self._require_ranges([turn.turn for turn in turns])
        return in_float32(weights, self.conversation.sample_weight), parts

    def _of_completion(self, turn: Turn, *, is_last: bool) -> tuple[Exact, Parts]:
        """Return the weight and the part of each character of a completion."""
        policy, index = self.policy, turn.message_index
        span = slice(turn.prompt_end, turn.completion_end)
        text, origins = turn.text[span], turn.origins[span]
        begins, message = own_beginning(turn), self.conversation.messages[index]
        end = end_of_answer(text, origins, turn.stop, self.terminators)
        parts = parts_of(text, origins, turn.leaves, begins=begins, end=end, message=message)
        scale = self.loss_scale(text, index, end)
        if not self.trained[index] and self.conversation.weights[index] is None:
            weights = self.outside(turn)[span]  # only ranges put it into the loss
        else:
            of_part = np.array([policy.weight_of(part) for part in PARTS])
            weights = of_part[parts] * self.trained[index] * scale
        if policy.empty_think == "ignore":
            for start, stop, is_empty in think_blocks(text, begins):
                if is_empty and (parts[start:stop] == REASONING_PART).all():
                    weights[start:stop] = 0
        for item in self.conversation.ranges.get(index, ()):
            inside = self.inside(turn, index, item)[span]
            weights[inside] = item.weight * scale[inside]
        if policy.stop == "never" or (policy.stop == "last" and not is_last):
            weights[end:] = 0
        return weights, parts

    def outside(self, turn: Turn) -> Exact:
        """Return the weight of each character of a text, completions aside."""
        prompt, scaffold = self.policy.weight_of("prompt"), self.policy.weight_of("scaffold")
        if self.policy.train_on == "all" and "scaffold" not in self.policy.weights:
            scaffold = 1.0
        written = turn.rendering.message_index()
        weights: Exact = np.where(written >= 0, prompt, scaffold)
        if not prompt:
            return weights
        given = np.array([each == 0 for each in self.conversation.weights] or [False])
        weights[(written >= 0) & given[written]] = 0
        for index in self.conversation.ranges:
            for item in self.conversation.ranges.get(index, ()):
                if not item.weight:
                    weights[self.inside(turn, index, item)] = 0
        return weights

    def loss_scale(self, text: str, index: int, end: int) -> Exact:
        """Return the factor of each character of a completion; as in ms-swift, 1 for its stop."""
        scale = np.ones(len(text))
        if not self.policy.loss_scale:
            return scale
        before = reversed(self.conversation.messages[:index])
        asked = next((message for message in before if message["role"] == "user"), None)
        query = _text_of(asked.get("content")) if asked else ""
        for item in weights_of_text(text[:end], self.policy.loss_scale, query=query):
            scale[item["start"] : item["end"]] = item["weight"]
        return scale

    def _require_ranges(self, turns: Sequence[Turn]) -> None:
        """Refuse a weight of the data for text that is shown, but stands in no completion."""
        for index in {turn.message_index for turn in turns} & self.conversation.ranges.keys():
            own = [turn for turn in turns if turn.message_index == index]
            for item in self.conversation.ranges[index]:
                is_trained = any(
                    self.inside(t, index, item)[t.prompt_end : t.completion_end].any() for t in own
                )
                if item.weight and not is_trained and self._is_shown(own[0], item):
                    raise ParityError(
                        f"the data weighs characters {item.start}:{item.end} of {item.path!r}, "
                        "which stand outside of what is trained: in a prefill, or outside of tags",
                        reason="range_not_located",
                        message_index=index,
                    )

    def _is_shown(self, turn: Turn, item: WeightedRange) -> bool:
        """Return whether anything but white space of a range is in the text of a turn."""
        index = turn.message_index
        text = string_at(self.conversation.messages[index], item.path) or ""
        is_visible = bool(text[item.start : item.end].strip())
        return is_visible and bool(self.inside(turn, index, item).any())

    def inside(self, turn: Turn, index: int, item: WeightedRange) -> npt.NDArray[np.bool_]:
        """Return which characters of a text stand for a range of a string.

        Raises:
            ParityError: The template does not show where in the text they are.
        """
        paths = self._names_of(item.path, index)
        shared = turn.places.numbers(index)  # perhaps with a text that goes on
        own = [number for number in shared if number < len(turn.leaves)]
        numbers = [
            number
            for number in own
            if turn.leaves[number].path in paths and not turn.leaves[number].is_key
        ]
        if not numbers and own:
            raise _not_located(item, index, "no template sees that text as the message holds it")
        of_leaf = np.isin(leaf_of(turn.origins), numbers)
        offsets = turn.origins & COARSE
        if bool((of_leaf & (offsets == COARSE)).any()):
            raise _not_located(
                item,
                index,
                "the template changes that text so that it cannot be told where they are",
            )
        inside: npt.NDArray[np.bool_] = of_leaf & (offsets >= item.start) & (offsets < item.end)
        return inside

    def _names_of(self, path: str, index: int) -> tuple[str, ...]:
        """Return the paths under which templates see a string: reasoning has several names."""
        message = self.conversation.messages[index]
        given = [name for name in REASONING if message.get(name) is not None]
        if path not in given[:1]:
            return (path,)
        return (path, *(name for name in REASONING if name not in given))


def _not_located(item: WeightedRange, index: int, why: str) -> ParityError:
    return ParityError(
        f"the data weighs characters {item.start}:{item.end} of {item.path!r}, but {why}",
        reason="range_not_located",
        message_index=index,
    )


def own_beginning(turn: Turn) -> str:
    """Return the end of the prompt, from behind the last character of another message."""
    width, end = 64, turn.prompt_end
    while True:
        start = max(0, end - width)
        written = turn.rendering.message_index(start, end)
        others = np.flatnonzero((written >= 0) & (written != turn.message_index))
        if others.size or not start:
            return turn.text[start + int(others[-1]) + 1 if others.size else 0 : end]
        width *= 8


def _text_of(content: object) -> str:
    """Return the text of a content, parts put together."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "".join(text for text in texts if isinstance(text, str))


def in_float32(weights: npt.NDArray[Any], factor: float = 1.0) -> Weights:
    """Multiply weights with that of the row.

    Raises:
        ConversationError: float32 cannot hold a product.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = weights.astype(np.float64) * factor
        rounded: Weights = exact.astype(np.float32)
    is_lost = (np.abs(rounded) < np.finfo(np.float32).tiny) & (weights != 0) & (factor != 0)
    wrong = np.flatnonzero(is_lost | ~np.isfinite(rounded))
    if wrong.size:
        raise ConversationError(
            f"the weights of data and policy multiply to {exact[wrong[0]]:g}, which float32 cannot "
            "hold"
        )
    return rounded


def first_visible(text: str, offsets: Offsets) -> npt.NDArray[np.intp]:
    """Return the first character of each token that is not white space, or else its first.

    Args:
        text: n characters, at least one.
        offsets: int32 (tokens, 2); a token of no character counts as the next one. The first and
            the last one may reach out of the text.
    """
    position = np.where(is_visible(text), np.arange(len(text)), len(text))
    following = np.minimum.accumulate(position[::-1])[::-1]
    starts = np.clip(offsets[:, 0], 0, len(text) - 1)
    first: npt.NDArray[np.intp] = following[starts]
    return np.where(first < np.minimum(offsets[:, 1], len(text)), first, starts)


def ignorable(
    text: str, ids: Ids, offsets: Offsets, spans: Sequence[Span], policy: Policy
) -> npt.NDArray[np.bool_] | None:
    """Return which tokens of an example the policy leaves out by chance, None if it names none.

    Args:
        text: Of the example.
        ids: int32 (n,).
        offsets: int32 (n, 2).
        spans: What is in the loss; texts to ignore count there.
        policy: ``ignore`` names ids and texts.
    """
    if not policy.ignore:
        return None
    found = np.isin(ids, [item for item in policy.ignore if isinstance(item, int)])
    texts = [item for item in policy.ignore if isinstance(item, str)]
    for start, stop in _occurrences(text, spans, texts):
        found |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > start)
    return found


def _occurrences(
    text: str, spans: Sequence[Span], texts: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Yield where texts stand in what is in the loss; white space before them counts with them."""
    space_from = np.arange(len(text) + 1)  # where the white space before a character begins
    for match in re.finditer(r"\s+", text):
        space_from[match.start() : match.end() + 1] = match.start()
    for each, span in product(texts, spans):
        for match in re.finditer(re.escape(each), text[span.start : span.end]):
            start = span.start + match.start()
            yield max(span.start, int(space_from[start])), span.start + match.end()


def _shared(ids: Ids, other: Ids) -> int:
    """Return how many ids two sequences begin with alike."""
    n = min(len(ids), len(other))
    differs = np.flatnonzero(ids[:n] != other[:n])
    return int(differs[0]) if differs.size else n
