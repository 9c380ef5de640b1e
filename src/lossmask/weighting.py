r"""How much each token of an example counts: the one writer of the loss.

In: the turns that share an example, what the data and the policy say. Out: a weight per token, and
which tokens may be left out by chance. A character's weight is::

    in a completion        part weight x loss scale x weight of the message
                           (a range that the data weighs replaces part and message weight)
    outside of them        weight of "prompt" where a message wrote it, of "scaffold" elsewhere

and all of it times the weight of the row. A token of several characters counts as its first one
that is not white space, so that ``" word"`` counts as ``word``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossmask.completions import Turn
from lossmask.conversation import Conversation
from lossmask.errors import ParityError
from lossmask.example import Span
from lossmask.message_weights import WeightedRange
from lossmask.parts import parts_of, think_blocks
from lossmask.policy import PARTS, Policy
from lossmask.swift_loss_scale import weights_of_text
from lossmask.tokenizing import Ids, Offsets
from lossmask.traced_text import COARSE, leaf_of
from lossmask.turn_tokens import TokenizedTurn

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weigher:
    """Weighs the examples of one conversation.

    Attributes:
        conversation: What the data says.
        policy: What the policy says.
        trained: Weight of each trained message.
        last: The last trained message: ``stop="last"`` trains its stop token only.
    """

    conversation: Conversation
    policy: Policy
    trained: dict[int, float]

    @property
    def last(self) -> int:
        """The last trained message."""
        return max(self.trained)

    def weigh(
        self, base: TokenizedTurn, turns: Sequence[TokenizedTurn], seen: Sequence[Ids] = ()
    ) -> Weights:
        """Weigh the tokens of an example.

        Args:
            base: Gives it its text.
            turns: Those in the loss.
            seen: Ids of the examples of the same conversation before it: a token out of all
                completions counts in the first example that holds it and all before it.

        Returns:
            float32 (n,).
        """
        weights = of_tokens(self._outside(base.turn), base.turn.text, base.tokens.offsets)
        weights[: max((_shared(base.tokens.ids, ids) for ids in seen), default=0)] = 0
        for turn in turns:
            span = slice(turn.prompt_length, turn.completion_end)
            characters = self.of_completion(turn)
            offsets = base.tokens.offsets[span] - np.int32(turn.start)
            text = turn.turn.text[turn.start : turn.turn.completion_end]
            weights[span] = of_tokens(characters, text, offsets)
        weights *= np.float32(self.conversation.sample_weight)
        return weights

    def of_completion(self, turn: TokenizedTurn) -> Weights:
        """Return the weight of each character of a turn in the loss."""
        whole, policy = turn.turn, self.policy
        index, span = whole.message_index, slice(turn.start, whole.completion_end)
        text, origins = whole.text[span], whole.origins[span]
        begins = whole.text[: turn.start]
        message = self.conversation.messages[index]
        parts = parts_of(
            text, origins, whole.leaves, begins=begins, stop=whole.stop, message=message
        )
        of_part = np.array([policy.weight_of(part) for part in PARTS], np.float32)
        weights: Weights = of_part[parts] * np.float32(self.trained[index])
        if policy.empty_think == "ignore":
            for start, stop, is_empty in think_blocks(text, begins):
                weights[start:stop] *= not is_empty
        self._apply_loss_scale(text, index, weights)
        self._apply_ranges(whole, index, span, weights)
        if policy.stop == "never" or (policy.stop == "last" and index != self.last):
            weights[len(text) - len(whole.stop or "") :] = 0
        return weights

    def _outside(self, turn: Turn) -> Weights:
        """Return the weight of each character of a text, completions aside."""
        prompt, scaffold = self.policy.weight_of("prompt"), self.policy.weight_of("scaffold")
        if self.policy.train_on == "all" and "scaffold" not in self.policy.weights:
            scaffold = 1.0
        written = turn.rendering.message_index()
        weights: Weights = np.where(written >= 0, np.float32(prompt), np.float32(scaffold))
        return weights

    def _apply_loss_scale(self, text: str, index: int, weights: Weights) -> None:
        if not self.policy.loss_scale:
            return
        asked = [m for m in self.conversation.messages[:index] if m["role"] == "user"]
        query = str(asked[-1].get("content") or "") if asked else ""
        for item in weights_of_text(text, self.policy.loss_scale, query=query):
            weights[item["start"] : item["end"]] *= np.float32(item["weight"])

    def _apply_ranges(self, turn: Turn, index: int, span: slice, weights: Weights) -> None:
        for item in self.conversation.ranges.get(index, ()):
            weights[_inside(turn, index, span, item)] = item.weight


def _inside(turn: Turn, index: int, span: slice, item: WeightedRange) -> npt.NDArray[np.bool_]:
    """Return which characters of ``turn.text[span]`` stand for a range of a string.

    Raises:
        ParityError: The template does not show where in the text they are.
    """
    number = next(
        (
            number
            for number, leaf in enumerate(turn.leaves)
            if leaf.message_index == index and leaf.path == item.path and not leaf.is_key
        ),
        None,
    )
    origins = turn.origins[span]
    of_leaf = leaf_of(origins) == (-2 if number is None else number)
    offsets = origins & COARSE
    if bool((of_leaf & (offsets == COARSE)).any()):
        raise ParityError(
            f"the data weighs characters {item.start}:{item.end} of {item.path!r}, but the "
            "template changes that text so that it cannot be told where they are",
            reason="range_not_located",
            message_index=index,
        )
    inside: npt.NDArray[np.bool_] = of_leaf & (offsets >= item.start) & (offsets < item.end)
    return inside


def of_tokens(characters: Weights, text: str, offsets: Offsets) -> Weights:
    """Return the weight of each token: that of its first character that is not white space.

    Args:
        characters: float32 (n,), weight of each character of ``text``.
        text: n characters.
        offsets: int32 (tokens, 2).
    """
    weights: Weights = characters[first_visible(text, offsets)].astype(np.float32)
    return weights


def first_visible(text: str, offsets: Offsets) -> npt.NDArray[np.intp]:
    """Return the first character of each token that is not white space, or else its first.

    Args:
        text: n characters, at least one.
        offsets: int32 (tokens, 2); a token of no character counts as the next one.
    """
    visible = np.fromiter((not c.isspace() for c in text), bool, len(text))
    position = np.where(visible, np.arange(len(text)), len(text))
    following = np.minimum.accumulate(position[::-1])[::-1]
    starts = np.clip(offsets[:, 0], 0, len(text) - 1)
    first: npt.NDArray[np.intp] = following[starts]
    return np.where(first < offsets[:, 1], first, starts)


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
    pattern = re.compile("|".join(rf"\s*{re.escape(each)}" for each in texts) or "(?!)")
    for span in spans:
        for match in pattern.finditer(text, span.start, span.end):
            yield match.start(), match.end()


def _shared(ids: Ids, other: Ids) -> int:
    """Return how many ids two sequences begin with alike."""
    n = min(len(ids), len(other))
    differs = np.flatnonzero(ids[:n] != other[:n])
    return int(differs[0]) if differs.size else n
