"""Conversation -> text, with the message and field behind every character, told from outside.

In: any function that renders messages, and messages. Out: an :class:`Observation`, whose rendering
has an origin per character, as ``rendering`` has, found without looking into the renderer: the
conversation is rendered again with one of its strings replaced by another of the same length and
the same kinds of characters, and whatever *moves* came from that string::

    user: "Hi Bob"     <|user|>Hi Bob<|end|><|bot|>Hello<|end|>
    user: "Qa Xkd"     <|user|>Qa Xkd<|end|><|bot|>Hello<|end|>
                               ^^ ^^^

This is independent of how ``traced_text`` derives the same, and ``proof`` compares the two. It is
the only derivation where the renderer is not a Jinja template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.errors import ParityError
from lossmask.moved_text import (
    UNKNOWN,
    Codes,
    Flags,
    Pair,
    Seen,
    StructureChangedError,
    coded,
    codes,
    infer,
    located,
    matched,
    runs_at_tags,
)
from lossmask.rendering import Message
from lossmask.replacements import NEVER, PUNCTUATION, SPACE, TAG, grades, replaced
from lossmask.traced_rendering import Leaf, Rendering
from lossmask.traced_text import COARSE, LITERAL

Render = Callable[[Sequence[Message]], str]
_TRIES = 2  # seeds per string, before it is given up


@dataclass(frozen=True, slots=True)
class Observation:
    """What re-rendering told about n rendered characters.

    Attributes:
        rendering: The text and its origins, without marks. ``COARSE`` offsets where a character
            moved with a string but is none of its characters (its case was changed).
        moved: bool array (n,): the character was seen to move with its leaf. The others that have
            an origin are inferred: white space, tags, quotes and the like that no perturbation
            replaced, and that stand where the leaf has the same characters.
        replaced: One bool array per leaf, True where its character was replaced by another.
        undetermined: The leaves whose characters could not be told, and why: the renderer looked at
            the value and wrote something else.
    """

    rendering: Rendering
    moved: Flags
    replaced: tuple[Flags, ...]
    undetermined: Mapping[Leaf, str]

    def require(self, leaves: Iterable[Leaf]) -> Rendering:
        """Return the rendering if these leaves were told.

        Raises:
            ParityError: One of them was not; names it.
        """
        for leaf in leaves:
            if leaf in self.undetermined:
                raise ParityError(
                    f"cannot tell where the text of {leaf.path!r} went: {self.undetermined[leaf]}",
                    reason="cannot_observe",
                    message_index=leaf.message_index,
                )
        return self.rendering


def observe(render: Render, messages: Sequence[Message]) -> Observation:
    """Find out which string of a conversation wrote which rendered character.

    What moved is certain. Quotes, brackets, JSON's own characters, accents, and white space between
    words are not replaced: between two moved characters of one leaf they are taken for the leaf's
    where they stand at the right distance and spell the same, escaped or not; at its ends where
    they adjoin and spell the same. White space at the ends and around tags is the leaf's only if
    it was seen to move, and tags only if they stand where others in their stead would. All else
    is ``LITERAL``.

    Args:
        render: Any deterministic function from messages to text. Called two to four times per
            string, with messages of the same structure; whatever it raises then is caught.
        messages: Conversation in the chat format. Roles are never replaced, strings under other
            keys are, keys below a tool call's ``arguments`` too.

    Raises:
        ParityError: The text changes from one rendering to the next.
        Exception: Whatever ``render`` raises for the conversation as it is.

    Example:
        >>> seen = observe(lambda m: f"[{m[0]['content'].strip()}]", [{"content": " Hi! "}])
        >>> [int(origin & 0xFF) for origin in seen.rendering.origins if origin >= 0]
        [1, 2, 3]
    """
    text = render(messages)
    base = codes(text)
    places = list(_places(messages))
    seen: list[Seen] = []
    undetermined: dict[Leaf, str] = {}
    for place in places:
        try:
            seen.append(_observe_leaf(place, base, text, render, messages))
        except StructureChangedError as error:
            undetermined[place.leaf] = str(error)
            seen.append(_nothing(len(base), len(place.text)))
    if render(messages) != text:
        raise ParityError(
            "the text changes from one rendering to the next", reason="cannot_observe"
        )
    _drop_clashes(seen, places, undetermined)
    origins = np.full(len(base), LITERAL, np.int64)
    moved = np.zeros(len(base), bool)
    for number, found in enumerate(seen):
        known = found.offsets != UNKNOWN
        origins[known] = (number << 32) | found.offsets[known]
        moved |= found.moved
    for number, place in enumerate(places):
        if seen[number].moved.any():
            infer(origins, text, number, place.text, seen[number].replaced)
    leaves = tuple(place.leaf for place in places)
    rendering = Rendering(text, origins, leaves, ())
    return Observation(rendering, moved, tuple(found.replaced for found in seen), undetermined)


@dataclass(frozen=True, slots=True)
class _Place:
    """A leaf, where it lies in its message, and its text."""

    leaf: Leaf
    keys: tuple[str | int, ...]
    text: str

    def put(self, messages: Sequence[Message], text: str) -> list[Message]:
        """Return the messages with this leaf replaced."""
        index = self.leaf.message_index
        changed = _put(messages[index], self.keys, text, self.leaf.is_key)
        return [*messages[:index], changed, *messages[index + 1 :]]


def _places(messages: Sequence[Message]) -> Iterator[_Place]:
    """Walk through the strings in the order of ``rendering.trace_messages``."""
    for index, message in enumerate(messages):
        for key, value in message.items():
            if key != "role":
                yield from _places_in(value, index, (key,))


def _places_in(value: Any, index: int, keys: tuple[str | int, ...]) -> Iterator[_Place]:
    path = "/".join(map(str, keys))
    if isinstance(value, str):
        yield _Place(Leaf(index, path), keys, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield _Place(Leaf(index, f"{path}/{key}", is_key=True), (*keys, key), key)
            yield from _places_in(item, index, (*keys, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _places_in(item, index, (*keys, number))


def _put(value: Any, keys: tuple[str | int, ...], text: str, is_key: bool) -> Any:
    if not keys:
        return text
    first, *rest = keys
    if isinstance(value, dict):
        if is_key and not rest:
            if text in value:
                raise StructureChangedError("two keys became one")
            return {text if key == first else key: item for key, item in value.items()}
        return {**value, first: _put(value[first], tuple(rest), text, is_key)}
    return [
        _put(item, tuple(rest), text, is_key) if number == first else item
        for number, item in enumerate(value)
    ]


@dataclass(frozen=True, slots=True)
class _Trials:
    """Renders a conversation with one leaf replaced."""

    place: _Place
    base: Pair
    render: Render
    messages: Sequence[Message]

    def run(self, leaf_text: str) -> Pair:
        changed = self.place.put(self.messages, leaf_text)
        try:
            text = self.render(changed)
        except MemoryError:
            raise
        except Exception as error:  # a renderer is a program: it may raise anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:100]
            raise StructureChangedError(
                f"with another text there the renderer raises {reason}"
            ) from error
        if len(text) != len(self.base.text):
            raise StructureChangedError("with another text there the rendering has another length")
        return Pair(codes(leaf_text), codes(text))


def _observe_leaf(
    place: _Place, base: Codes, text: str, render: Render, messages: Sequence[Message]
) -> Seen:
    """Perturb one leaf until two perturbations agree about what moves with it."""
    of_format = place.leaf.is_key and "/arguments/" not in place.leaf.path
    if of_format and place.text not in text:
        raise StructureChangedError("it is a key that the rendering does not show")
    grade = grades(place.text)
    lowest = int(grade.min(initial=NEVER))
    if lowest == NEVER and place.text:
        raise StructureChangedError("none of its characters has another of its kind")
    trials = _Trials(place, Pair(codes(place.text), base), render, messages)
    if not place.text:
        return _nothing(len(base), 0)
    for seed in range(0 if of_format else _TRIES - 1):
        with suppress(StructureChangedError):
            return _observe_with(trials, grade, lowest, seed)
    return _observe_with(trials, grade, lowest, _TRIES - 1)


def _nothing(length: int, leaf_length: int) -> Seen:
    offsets = np.full(length, UNKNOWN, np.int64)
    return Seen(np.zeros(length, bool), offsets, np.zeros(leaf_length, bool))


def _observe_with(trials: _Trials, grade: npt.NDArray[np.int8], lowest: int, seed: int) -> Seen:
    text = trials.place.text
    first = trials.run(replaced(text, lowest, seed=seed, turn=0))
    if np.array_equal(first.text, trials.base.text):
        return replace(_nothing(len(first.text), len(text)), replaced=grade <= lowest)
    try:
        highest = max(lowest, PUNCTUATION)
        second = trials.run(replaced(text, highest, seed=seed, turn=1))
        seen = located(trials.base, first, second)
    except StructureChangedError:
        second = trials.run(replaced(text, lowest, seed=seed, turn=1))
        seen = located(trials.base, first, second)
    return _with_tags(_with_outer_space(seen, trials, grade), trials, grade)


def _with_outer_space(seen: Seen, trials: _Trials, grade: npt.NDArray[np.int8]) -> Seen:
    """Add the white space at the ends of the leaf and around tags where it is seen to move.

    It is what templates strip, so it is tried apart.
    """
    at_tag, run = runs_at_tags(grade, seen.replaced)
    space = at_tag & (grade == SPACE)
    for part in (space, space & (run == 0), space & (run == run[-1])):
        offsets = _offsets_with(part, seen, trials)
        if offsets is not None:
            return Seen(offsets != UNKNOWN, offsets, seen.replaced | part)
    return seen


def _with_tags(seen: Seen, trials: _Trials, grade: npt.NDArray[np.int8]) -> Seen:
    """Add the offsets of tags that move, without calling them moved.

    A template that recognises ``<think>`` may write the very same text itself; with another tag
    there it takes the other branch, which shows the message's own.
    """
    offsets = _offsets_with(~seen.replaced & (grade == TAG), seen, trials)
    return seen if offsets is None else Seen(seen.moved, offsets, seen.replaced)


def _offsets_with(part: Flags, seen: Seen, trials: _Trials) -> Codes | None:
    """Replace one more part of the leaf; return all offsets, or None if anything else changes."""
    if not part.any():
        return None
    base = trials.base
    other = replaced(trials.place.text, TAG, seed=0, turn=0)
    pairs = zip(trials.place.text, other, part.tolist(), strict=True)
    try:
        third = trials.run("".join(new if put else old for old, new, put in pairs))
    except StructureChangedError:
        return None
    moved = base.text != third.text
    in_text, in_leaf = coded(base.text, third.text), coded(base.leaf, third.leaf)
    offsets = matched(seen.offsets, moved, in_text, part, in_leaf)
    return None if np.any(moved & (offsets == COARSE)) else offsets


def _drop_clashes(
    seen: list[Seen], places: Sequence[_Place], undetermined: dict[Leaf, str]
) -> None:
    """Give up the leaves that moved the same character."""
    owner = np.full(len(seen[0].moved) if seen else 0, UNKNOWN, np.int64)
    clashing: set[int] = set()
    for number, found in enumerate(seen):
        known = found.offsets != UNKNOWN
        taken = known & (owner != UNKNOWN)
        if taken.any():
            clashing |= {number, *np.unique(owner[taken]).tolist()}
        owner[known] = number
    for number in clashing:
        undetermined[places[number].leaf] = "what moves with it moves with another text too"
        seen[number] = _nothing(len(owner), len(places[number].text))
