r"""Laid-out plain conversations -> their tokens, a batch at a time.

In: texts with places in characters (``plain_conversations``). Out: ids, weights and messages of all
of them end to end. Where each token lies follows from what the vocabulary spells, which has to be
the text, byte for byte. Prompts are not tokenized again: added tokens cut a text before anything
else is done to it, so the ids of a prompt are those of the text up to its last added token, and the
ids of what follows that one::

    text    … <|im_end|> \n <|im_start|> assistant \n Hello <|im_end|> \n
    prompt  … <|im_end|> \n <|im_start|> assistant \n
                                        ^^^^^^^^^^^^ ids of "assistant\n" alone? the prompt's

A conversation for which any of this does not hold is left to the whole way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.control_tokens import control_tokens_of
from lossmask.example import IGNORE_INDEX
from lossmask.parts import Parts, might_think, might_think_anywhere, parts_of_answers, think_blocks
from lossmask.setting import Setting
from lossmask.skeletons import PlainLayout, size_in_bytes
from lossmask.tokenizing import TextTokenizer
from lossmask.vocabulary_bytes import VocabularyBytes

Ids = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]

_INDEPENDENT = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}


@dataclass(frozen=True, slots=True, eq=False)
class FlatTokens:
    """Examples end to end; example ``k`` is ``[starts[k]:starts[k + 1]]`` of every column.

    Attributes:
        starts: int64 (examples + 1,).
        input_ids: int32 (tokens,).
        labels: int32 (tokens,), -100 = out of the loss.
        loss_weights: float32 (tokens,), 1 or 0.
        message_index: int32 (tokens,), -1 = template scaffolding.
        in_loss: Of each example, how many of its tokens are.
        bounds: int64 (tokens + 1,), byte at which each token begins in the texts end to end.
        is_exact: bool (examples,); an example that is not has to go the whole way.
        is_stop: bool (vocabulary,): at which tokens inference ends a turn.
        is_thought: bool (tokens,): in a think block of a completion, or None if there is none.
    """

    starts: Positions
    input_ids: Ids
    labels: Ids
    loss_weights: npt.NDArray[np.float32]
    message_index: npt.NDArray[np.int32]
    in_loss: list[int]
    bounds: Positions
    is_exact: npt.NDArray[np.bool_]
    is_stop: npt.NDArray[np.bool_]
    is_thought: npt.NDArray[np.bool_] | None = None

    def parts(self) -> Parts:
        """Return int8 (tokens,): what each token is part of, an index into ``policy.PARTS``."""
        stops = self.is_stop[self.input_ids]
        in_loss = self.labels != IGNORE_INDEX
        return parts_of_answers(in_loss, stops, self.message_index, self.is_thought)

    def are_exact(self, numbers: range) -> bool:
        """Return whether some examples all are."""
        return bool(self.is_exact[numbers.start : numbers.stop].all())


class PlainTokens:
    """Tokenizes laid-out conversations under one setting.

    Args:
        setting: Its tokenizer has to be one that :func:`cuts_at_added_tokens`.
        vocabulary: What its tokens spell.
        prompt_end: What every prompt ends with.
    """

    def __init__(self, setting: Setting, vocabulary: VocabularyBytes, prompt_end: str) -> None:
        assert isinstance(setting.tokenizer, TextTokenizer)
        tokenizer = setting.tokenizer.tokenizer
        control = control_tokens_of(setting.tokenizer, setting.stops)
        added = np.array(sorted(tokenizer.added_tokens_decoder), np.int64)
        size = len(vocabulary.spelled)
        self._vocabulary = vocabulary
        self._encode = setting.tokenizer.encode_flat
        self._fit = setting.fit
        self._is_control = _flags(size, [*control.ids, *setting.stops.ids])
        self._is_stop = _flags(size, np.intersect1d(list(setting.stops.ids), added))
        self._unknown = tokenizer.unk_token_id
        self._prompt_end = self._end_of(prompt_end, _flags(size, added))

    @property
    def is_possible(self) -> bool:
        """Whether the end of prompts holds an added token, which cuts the text."""
        return self._prompt_end is not None

    def encode(self, layouts: Sequence[PlainLayout]) -> FlatTokens:
        """Tokenize k conversations."""
        assert self._prompt_end is not None
        data = [_utf8(layout.text) for layout in layouts]
        joined = b"".join(filter(None, data))
        ids, starts = self._encode(
            ["" if d is None else each.text for d, each in zip(data, layouts, strict=True)]
        )
        spelled, bounds = self._vocabulary.spell(ids)
        is_exact = _spells(data, joined, spelled, bounds[starts])
        places = _Places(layouts, bounds[starts], is_exact)
        message_index = self._messages(bounds, places)
        in_loss, count, inexact = self._completions(ids, bounds, places)
        is_exact[inexact] = False
        doubtful = self._is_control[ids] & (message_index >= 0)  # a content reaches into it
        if self._unknown is not None:
            doubtful |= ids == self._unknown
        found = np.flatnonzero(doubtful)
        is_exact[np.searchsorted(starts, found, side="right") - 1] = False
        is_exact &= [self._fit.admits(length) for length in np.diff(starts).tolist()]
        labels = np.where(in_loss, ids, np.int32(IGNORE_INDEX))
        weights = in_loss.astype(np.float32)
        return FlatTokens(
            starts,
            ids,
            labels,
            weights,
            message_index,
            count.tolist(),
            bounds,
            is_exact,
            self._is_stop,
            _thoughts(bounds, bounds[starts], layouts) if might_think_anywhere(joined) else None,
        )

    def _messages(self, bounds: Positions, places: _Places) -> npt.NDArray[np.int32]:
        """Return the message behind each token; the first one has a token that two share."""
        from_token = np.searchsorted(bounds[1:], places.written[:, 0], side="right")
        to_token = np.searchsorted(bounds[:-1], places.written[:, 1], side="left")
        from_token[1:] = np.maximum(from_token[1:], to_token[:-1])
        index = _painted(len(bounds) - 1, from_token, to_token, places.message + 1)
        index -= 1
        return index

    def _completions(
        self, ids: Ids, bounds: Positions, places: _Places
    ) -> tuple[npt.NDArray[np.bool_], Positions, Positions]:
        """Return which tokens are in the loss, how many of each text, and texts not at parity."""
        assert self._prompt_end is not None
        ends_with, length = self._prompt_end
        first, last = places.first, places.last
        begin = np.searchsorted(bounds[:-1], first, side="left")
        end = np.searchsorted(bounds, last, side="left")
        n = len(ends_with)
        before = np.maximum(begin[:, None] - n + np.arange(n), 0)
        is_wrong = (bounds[begin] != first) | (bounds[np.minimum(end, len(bounds) - 1)] != last)
        is_wrong |= (ids[np.minimum(before, len(ids) - 1)] != ends_with).any(axis=1)
        is_wrong |= bounds[before[:, 0]] != first - length
        is_wrong |= ~self._is_stop[ids[np.maximum(end - 1, 0)]]
        in_loss = _painted(len(ids), begin, end, np.ones(len(begin), np.int64)) > 0
        count = np.zeros(places.texts, np.int64)
        np.add.at(count, places.owner, end - begin)
        return in_loss, count, places.owner[is_wrong]

    def _end_of(self, prompt_end: str, is_added: npt.NDArray[np.bool_]) -> tuple[Ids, int] | None:
        """Return the ids of the end of a prompt from its last added token on, and their bytes."""
        ids, _ = self._encode([prompt_end])
        data, bounds = self._vocabulary.spell(ids)
        cuts = np.flatnonzero(is_added[ids])
        if not cuts.size or data is None or data.to_pybytes()[: bounds[-1]] != prompt_end.encode():
            return None
        last = int(cuts[-1])
        behind = prompt_end.encode()[bounds[last + 1] :].decode()
        alone, _ = self._encode([behind])
        if not np.array_equal(alone, ids[last + 1 :]):
            return None
        return ids[last:], int(bounds[-1] - bounds[last])


class _Places:
    """Where contents and completions lie, in bytes of k texts end to end; int64 each.

    Attributes:
        message: (contents,), which message each content is of.
        written: (contents, 2), first byte and end.
        first: (turns,), first byte of each completion.
        last: (turns,), its end.
        owner: (turns,), the text that it is in.
        texts: How many there are.
    """

    def __init__(
        self,
        layouts: Sequence[PlainLayout],
        begins: Positions,
        is_exact: npt.NDArray[np.bool_],
    ) -> None:
        self.texts = len(layouts)
        chosen = np.flatnonzero(is_exact)
        own = [layouts[k] for k in chosen.tolist()]
        frames = [layout.frame for layout in own]
        sizes = np.fromiter(chain.from_iterable(layout.sizes for layout in own), np.int64)
        counts = np.array([len(frame.shown) for frame in frames], np.int64)
        turns = np.array([len(frame.turns) for frame in frames], np.int64)
        ends = np.cumsum(2 * counts + 1)  # of the pieces of each text
        behind = np.cumsum(sizes)
        skipped = begins[chosen + 1] - behind[ends - 1]  # texts that were not chosen
        flat = np.delete(behind + np.repeat(skipped, 2 * counts + 1), ends - 1)
        self.message = _joined(frame.messages for frame in frames)
        self.written = flat.reshape(-1, 2)
        place = _joined(frame.places for frame in frames)
        place = place + np.repeat(np.cumsum(counts) - counts, turns)
        self.first = self.written[place, 0] - _joined(frame.before for frame in frames)
        self.last = self.written[place, 1] + _joined(frame.behind for frame in frames)
        self.owner = np.repeat(chosen, turns)


def _joined(arrays: Iterable[Positions]) -> Positions:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _thoughts(
    bounds: Positions, begins: Positions, layouts: Sequence[PlainLayout]
) -> npt.NDArray[np.bool_] | None:
    """Return which tokens have their first visible character in a think block, None if none has."""
    found = [
        tuple(begin + size_in_bytes(text[:at]) for at in places)
        for begin, layout in zip(begins.tolist(), layouts, strict=False)
        if might_think(text := layout.text)
        for _, start, end in layout.completions
        for places in _think_blocks(text, start, end)
    ]
    if not found:
        return None
    space, first, last = np.array(found).T
    token = np.searchsorted(bounds[1:], first, side="right")  # the first that reaches into it
    token += bounds[token] < space  # which begins with something else
    behind = np.searchsorted(bounds[:-1], last, side="left")
    return _painted(len(bounds) - 1, token, behind, np.ones(len(token), np.int64)) > 0


def _think_blocks(text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield where the white space before each block begins, the block, and its end."""
    for first, last, _ in think_blocks(text[start:end], ""):
        yield start + len(text[start : start + first].rstrip()), start + first, start + last


def cuts_at_added_tokens(tokenizer: Any) -> bool:
    """Return whether what a tokenizer makes of text between added tokens depends on it alone.

    So it is where added tokens are found before the text is normalised and take no white space with
    them, and nothing is put before the beginning of a text.
    """
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    kinds = _parts(backend.pre_tokenizer, "pretokenizers")
    normalizers = {part["type"] for part in _parts(backend.normalizer, "normalizers")}
    return (
        all(part["type"] in _INDEPENDENT for part in kinds)
        and not any(part.get("add_prefix_space") for part in kinds)
        and normalizers <= {"NFC"}
        and all(
            not (token.lstrip or token.rstrip or token.single_word)
            and not (token.normalized and normalizers)
            for token in tokenizer.added_tokens_decoder.values()
        )
    )


def _parts(part: Any, name: str) -> list[dict[str, Any]]:
    """Return what a part of a tokenizer is a sequence of, itself if it is none."""
    if part is None:
        return []
    return _flattened(json.loads(part.__getstate__()), name)


def _flattened(part: dict[str, Any], name: str) -> list[dict[str, Any]]:
    if part["type"] != "Sequence":
        return [part]
    return [inner for each in part[name] for inner in _flattened(each, name)]


def _flags(size: int, numbers: Any) -> npt.NDArray[np.bool_]:
    flags = np.zeros(size, np.bool_)
    flags[np.asarray(numbers, np.int64)] = True
    return flags


def _painted(
    size: int, first: Positions, end: Positions, values: Positions
) -> npt.NDArray[np.int32]:
    """Return 0 everywhere but in ranges, which have a value each, int32 (size,)."""
    changes = np.zeros(size + 1, np.int32)
    np.add.at(changes, first, values)
    np.subtract.at(changes, np.maximum(first, end), values)
    return np.cumsum(changes[:-1], dtype=np.int32)


def _utf8(text: str) -> bytes | None:
    """Return text in UTF-8, None if it holds half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _spells(
    texts: Sequence[bytes | None], joined: bytes, spelled: Any, of_tokens: Positions
) -> npt.NDArray[np.bool_]:
    """Return for each text whether its tokens spell it.

    Args:
        texts: None for what is not UTF-8.
        joined: All others end to end.
        spelled: What the tokens spell.
        of_tokens: int64 (k + 1,), where those of each text begin in it.
    """
    found = b"" if spelled is None else spelled[: int(of_tokens[-1])].to_pybytes()
    if None not in texts and found == joined:
        lengths = [len(text or b"") for text in texts]
        if np.array_equal(np.diff(of_tokens), lengths):
            return np.ones(len(texts), np.bool_)
    borders = of_tokens.tolist()
    return np.array(
        [found[borders[k] : borders[k + 1]] == text for k, text in enumerate(texts)], np.bool_
    )
