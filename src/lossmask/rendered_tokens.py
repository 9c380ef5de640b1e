r"""Ids that a renderer gave, in the place of a tokenizer.

In: every rendering of one conversation, as ids. Out: for a text that the pipeline made of them, the
ids that the renderer gave for it. Text is never tokenized: in ``mistral-common``, ``[INST]`` typed
by a user is six plain characters, and that written by the renderer is one control token, although
both read alike.

A text is one of::

    prompt(i)                               its own ids
    full(i)                                 its own ids
    prompt(i) + the end of some full(j)     those of both, if a token of full(j) begins there
    the beginning of a rendering            its first ids, if a token ends there
    one of these + a stop token             as above

If two renderings read alike but have different ids, it is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lossmask.errors import ParityError, TemplateError, TokenizerError
from lossmask.stops import Stops
from lossmask.tokenizing import Ids, Offsets, Tokens
from lossmask.traced_text import Origins

_LARGEST_ID = int(np.iinfo(np.int32).max)


class Speller(Protocol):
    """Knows how tokens are spelled."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Ids at which inference ends a turn."""
        ...

    @property
    def control_ids(self) -> Collection[int]:
        """Ids that stand for more than their text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes of one token."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Spelled:
    """Rendered ids and the text they spell.

    Attributes:
        text: n characters.
        tokens: Its tokens, with offsets.
    """

    text: str
    tokens: Tokens

    def before(self, position: int) -> Ids | None:
        """Return the ids of ``text[:position]``, None if a token spans the position."""
        count = self._count_before(position)
        return None if count is None else self.tokens.ids[:count]

    def after(self, position: int) -> Ids | None:
        """Return the ids of ``text[position:]``, None if a token spans the position."""
        count = self._count_before(position)
        return None if count is None else self.tokens.ids[count:]

    def _count_before(self, position: int) -> int | None:
        starts, ends = self.tokens.offsets[:, 0], self.tokens.offsets[:, 1]
        count = int(np.searchsorted(starts, position))
        return count if not count or ends[count - 1] <= position else None


class Vocabulary:
    """The spelling of a renderer's tokens, looked up once per token.

    Args:
        speller: The renderer.
        stop_tokens: Further stop tokens, as ids or as the texts of control tokens.

    Raises:
        TokenizerError: A control token has no name, or a stop token is unknown.
    """

    def __init__(self, speller: Speller, stop_tokens: Sequence[str | int] = ()) -> None:
        self._speller = speller
        self._bytes: dict[int, bytes] = {}
        stops = set(speller.stop_ids)
        control = sorted(stops.union(speller.control_ids))
        self.control_texts = {token_id: self._name(token_id) for token_id in control}
        stops.update(self._stop_id(stop) for stop in stop_tokens)
        texts = tuple(self._name(token_id) for token_id in sorted(stops))
        self.stops = Stops(frozenset(stops), texts, texts[0] if len(texts) == 1 else None)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token.

        Raises:
            TokenizerError: The renderer does not know it, or spells it with no byte.
        """
        if token_id not in self._bytes:
            try:
                spelled = bytes(self._speller.token_bytes(token_id))
            except Exception as error:  # a renderer is a program: it may raise anything
                raise TokenizerError(
                    f"the renderer cannot spell its token {token_id}: "
                    f"{type(error).__name__}: {error}",
                    reason="unknown_token",
                ) from error
            if not spelled:
                raise TokenizerError(
                    f"the renderer spells its token {token_id} with no byte at all: nobody could "
                    "see where it stands; give it a name",
                    reason="unknown_token",
                )
            self._bytes[token_id] = spelled
        return self._bytes[token_id]

    def spell(self, ids: object) -> Spelled:
        """Spell what a renderer returned.

        Raises:
            TemplateError: It is no sequence of ids.
            TokenizerError: The tokens do not spell valid UTF-8.
        """
        checked = _checked_ids(ids)
        pieces = [self.token_bytes(token_id) for token_id in checked]
        try:
            text = b"".join(pieces).decode()
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"the rendered tokens do not spell valid UTF-8: {error}", reason="unknown_token"
            ) from error
        offsets = _offsets(text, [len(piece) for piece in pieces])
        return Spelled(text, Tokens(np.asarray(checked, np.int32), offsets))

    def _name(self, token_id: int) -> str:
        try:
            return self.token_bytes(token_id).decode()
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"the control token {token_id} is spelled {self.token_bytes(token_id)!r}, which is "
                "not valid UTF-8",
                reason="unknown_token",
            ) from error

    def _stop_id(self, stop: str | int) -> int:
        if isinstance(stop, str):
            for token_id, text in self.control_texts.items():
                if text == stop:
                    return token_id
            raise TokenizerError(
                f"the stop token {stop!r} is not a control token of this renderer",
                reason="unknown_stop",
            )
        self.control_texts.setdefault(stop, self._name(stop))
        return stop


def _checked_ids(ids: object) -> list[int]:
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence | np.ndarray):
        raise TemplateError(
            f"the renderer returned {type(ids).__name__}, not a list of token ids",
            reason="bad_renderer",
        )
    try:
        checked = [operator.index(token_id) for token_id in ids]
    except TypeError as error:
        raise TemplateError(
            f"the renderer returned what is no token id: {error}", reason="bad_renderer"
        ) from error
    for token_id in checked:
        if not 0 <= token_id <= _LARGEST_ID:
            raise TemplateError(
                f"the renderer returned {token_id}, which is no token id", reason="bad_renderer"
            )
    return checked


def _offsets(text: str, widths: Sequence[int]) -> Offsets:
    """Turn the widths of consecutive tokens in bytes into character intervals, int32 (n, 2).

    The tokens of one multi-byte character each have the whole character.
    """
    data = np.frombuffer(text.encode(), np.uint8)
    character_of = np.cumsum((data & 0xC0) != 0x80, dtype=np.int32) - np.int32(1)
    ends = np.cumsum(widths, dtype=np.int64)
    starts = ends - np.asarray(widths, np.int64)
    return np.stack([character_of[starts], character_of[ends - 1] + 1], axis=1)


class RenderedTokens:
    """The renderings of one conversation, in the place of a tokenizer.

    Attributes:
        vocabulary: How the tokens are spelled.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokenizer: Any = _ControlTokensOf(vocabulary)
        self.vocabulary = vocabulary
        self._prompts: list[Spelled] = []
        self._others: list[Spelled] = []

    def spell(self, ids: object) -> Spelled:
        """Spell what the renderer returned; see :meth:`Vocabulary.spell`."""
        return self.vocabulary.spell(ids)

    def add(self, spelled: Spelled, *, is_prompt: bool) -> None:
        """Remember a rendering."""
        (self._prompts if is_prompt else self._others).append(spelled)

    def control_tokens(self) -> tuple[str, ...]:
        """Return the names of the control tokens, longest first."""
        names = set(self.vocabulary.control_texts.values())
        return tuple(sorted(names, key=lambda text: (-len(text), text)))

    def added_tokens(self) -> tuple[str, ...]:
        """Return the names of the control tokens: a common prefix must not end inside one."""
        return self.control_tokens()

    def encode(
        self, texts: Sequence[str], origins: Sequence[Origins] | None = None
    ) -> list[Tokens]:
        """Return the tokens that the renderer gave for each text.

        Args:
            texts: Made of renderings, as the module says.
            origins: Not needed.

        Raises:
            ParityError: A text cannot be cut where it would have to be, or reads like two different
                renderings.
        """
        return [self._only(text, self._made_of_renderings(text)) for text in texts]

    def continuation(self, prompt: str, text: str, origins: Origins | None = None) -> Tokens:
        """Return the tokens that stand behind the prompt in a rendering of both.

        Args:
            prompt: What precedes the text.
            text: The text.
            origins: Not needed.

        Raises:
            ParityError: No token begins there, or the renderings differ.
        """
        both = prompt + text
        found = [each.after(len(prompt)) for each in self._others if each.text == both]
        return self._only(text, _found(found))

    def _only(self, text: str, found: Iterator[Ids]) -> Tokens:
        """Return the ids found, with offsets, if they are all the same."""
        different = {ids.tobytes(): ids for ids in found}
        if len(different) == 1:
            return self.vocabulary.spell(next(iter(different.values()))).tokens
        if different:
            raise ParityError(
                f"the renderer gives different token ids for texts that read alike, which end in "
                f"{text[-40:]!r}",
                reason="ambiguous_tokens",
            )
        raise ParityError(
            f"no rendering has a token that ends where the prompt ends, or the completion begins, "
            f"in a text that ends in {text[-40:]!r}",
            reason="boundary_inside_token",
        )

    def _made_of_renderings(self, text: str) -> Iterator[Ids]:
        """Yield the ids of a text in every way it can be made of renderings."""
        if found := list(self._same(text)):
            yield from found
            return
        if found := [*self._beginnings(text, self._prompts), *self._behind_prompts(text)]:
            yield from found
            return
        stops = self.vocabulary.stops
        for token_id, stop in zip(sorted(stops.ids), stops.texts, strict=True):
            if text.endswith(stop):
                stopped = np.array([token_id], np.int32)
                for ids in self._beginnings(text.removesuffix(stop), self._others):
                    yield np.concatenate([ids, stopped])
        yield from self._beginnings(text, self._others)

    def _same(self, text: str) -> Iterator[Ids]:
        every = (*self._prompts, *self._others)
        yield from (each.tokens.ids for each in every if each.text == text)

    def _beginnings(self, text: str, renderings: Sequence[Spelled]) -> Iterator[Ids]:
        yield from _found(
            each.before(len(text)) for each in renderings if each.text.startswith(text)
        )

    def _ends(self, text: str) -> Iterator[Ids]:
        yield from _found(
            each.after(len(each.text) - len(text))
            for each in self._others
            if each.text.endswith(text)
        )

    def _behind_prompts(self, text: str) -> Iterator[Ids]:
        for prompt in self._prompts:
            if text.startswith(prompt.text):
                for rest in self._ends(text.removeprefix(prompt.text)):
                    yield np.concatenate([prompt.tokens.ids, rest])


class _ControlTokensOf:
    """What ``control_tokens`` asks a transformers tokenizer for."""

    unk_token_id: int | None = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.added_tokens_decoder = vocabulary.control_texts


def _found(candidates: Iterable[Ids | None]) -> Iterator[Ids]:
    return (each for each in candidates if each is not None)
