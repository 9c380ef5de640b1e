r"""Who wrote each character of an example's text, and on which line of the chat template.

In: an encoder and one row of data. Out: for each example of the row, runs of characters with one
author, which cover its text::

    <|im_start|>user\nHi<|im_end|>\n
    the template, line 2             message 0, content[0:2], line 3       the template, line 3

The row goes the whole way (``pipeline``), which knows the string and offset behind every character;
here it tells what it built each example from (``Setting.record``), even where the text was put
together from several renderings, cut, or rendered without its oldest exchanges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError
from lossmask.example import Example
from lossmask.formats import to_normal
from lossmask.laying_out import Group
from lossmask.outcome import Outcome, Rejection
from lossmask.rendering import ChatTemplate
from lossmask.setting import Setting
from lossmask.template_lines import LinedTemplate, lines_of
from lossmask.traced_text import COARSE, Origins, leaf_of
from lossmask.truncating import encode_to_fit
from lossmask.weighting import Weigher


@dataclass(frozen=True, slots=True)
class Author:
    r"""A run of characters of an example's text with one author.

    Attributes:
        start: First character.
        end: Behind the last character.
        message_index: The message that wrote them, -1 = the template. In a row of text: the number
            of its range, as in ``Example.message_index``, -1 outside of them.
        field: The field of the message they stand in: ``content``, ``content[0].text``,
            ``tool_calls[0].function.arguments.city``; ``text`` or ``input_ids`` in a row of text or
            ids; None = the template.
        field_start: Offset of the first of them in that field, None where unknown. As many follow
            there; only several that stand for one, as ``\n`` in JSON does, are a run of their own.
        template_line: 1-based line of the chat template that wrote them out, None where unknown.
        is_key: Whether they stand in the last key of ``field`` itself, not in the value under it.
    """

    start: int
    end: int
    message_index: int
    field: str | None
    field_start: int | None
    template_line: int | None
    is_key: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What an example was built from.

    Attributes:
        example: The example as it was built, before anything was cut off.
        group: The turns that it holds, None in rows of text or ids.
        weigher: What weighed them, None in rows of text or ids.
        token_start: Its token that is the first of the example as it is.
        start: Its character that is the first of the example as it is.
    """

    example: Example
    group: Group | None
    weigher: Weigher | None
    token_start: int = 0
    start: int = 0

    def number_of(self, message_index: int) -> int:
        """Return the number that a message has in the row."""
        numbers = self.weigher.conversation.numbers if self.weigher else ()
        return numbers[message_index] if numbers and message_index >= 0 else message_index


@dataclass(frozen=True, slots=True)
class Attributed:
    """A row's outcome with what each of its examples was built from.

    Attributes:
        outcome: As of ``encoder.encode_row(row)``.
        normal: The row in the normal form; empty where it has none.
        sources: One per example of it.
        authors: One list per example of it.
    """

    outcome: Outcome
    normal: Mapping[str, Any]
    sources: tuple[Source, ...] = ()
    authors: tuple[tuple[Author, ...], ...] = ()


def attribute(encoder: Encoder, row: Mapping[str, Any]) -> list[list[Author]]:
    """Tell who wrote each character of the examples of one row.

    Takes many times longer than encoding it: for one row at a time.

    Args:
        encoder: The encoder.
        row: In any layout that the encoder reads.

    Returns:
        For each example of ``encoder.encode_row(row)``: runs that cover its text, ascending. Empty
        if the row is rejected.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> encoder = Encoder.from_pretrained(DEMO_MODEL)
        >>> row = {"messages": [{"role": "user", "content": "Hi"},
        ...                     {"role": "assistant", "content": "Hello"}]}
        >>> [authors] = attribute(encoder, row)
        >>> [(a.message_index, a.field, a.end - a.start) for a in authors if a.field]
        [(0, 'content', 2), (1, 'content', 5)]
    """
    return [list(authors) for authors in attributed(encoder, row).authors]


def attributed(encoder: Encoder, row: Mapping[str, Any]) -> Attributed:
    """Encode one row and keep what its examples were built from."""
    built: list[Source] = []
    setting = replace(
        lined_setting(encoder),
        record=lambda example, group, weigher: built.append(Source(example, group, weigher)),
    )
    normal: Mapping[str, Any] = {}
    try:
        normal = to_normal(row, encoder.layout)
        outcome = encode_to_fit(normal, setting)
    except LossmaskError as error:
        return Attributed(Outcome(rejection=Rejection.from_error(error)), normal)
    sources = tuple(_source(example, built) for example in outcome.examples)
    authors = tuple(
        tuple(_authors(example, source, normal))
        for example, source in zip(outcome.examples, sources, strict=True)
    )
    return Attributed(outcome, normal, sources, authors)


_settings: WeakKeyDictionary[Encoder, Setting] = WeakKeyDictionary()


def lined_setting(encoder: Encoder) -> Setting:
    """Return the setting of an encoder with a template that knows its lines, if it is a template.

    What renders otherwise has none.
    """
    setting = _settings.get(encoder)
    if setting is None:
        setting = encoder.setting
        template = setting.template
        if isinstance(template, ChatTemplate):
            lined = LinedTemplate(
                template.tokenizer, template.given, trace_tools=template.trace_tools
            )
            setting = replace(setting, template=lined)
        _settings[encoder] = setting
    return setting


def _source(example: Example, built: list[Source]) -> Source:
    """Return what an example was built from: its ids lie in the same memory, at some place."""
    for source in built:
        if example.input_ids is source.example.input_ids:
            return source
    for source in built:  # it is a part of one, every column of it
        if np.shares_memory(example.message_index, source.example.message_index):
            whole = source.example
            first = (_address(example.message_index) - _address(whole.message_index)) // 4
            start = int(whole.offsets[first, 0]) if first else 0
            return replace(source, token_start=first, start=start)
    raise AssertionError("an example was built without being recorded")


def _address(column: np.ndarray[Any, Any]) -> int:
    address: int = column.__array_interface__["data"][0]
    return address


def _authors(example: Example, source: Source, normal: Mapping[str, Any]) -> Iterator[Author]:
    """Yield the runs of an example's text."""
    if source.group is None:
        yield from _of_text(example, source, normal)
        return
    turn = source.group.base.turn
    span = slice(source.start, source.start + len(example.text))
    origins, lines = turn.origins[span], lines_of(turn.origins)[span]
    for start, end in _runs(np.asarray(origins), lines):
        origin, line = int(origins[start]), int(lines[start]) or None
        if origin < 0:
            yield Author(start, end, -1, None, None, line)
            continue
        leaf, offset = turn.leaves[origin >> 32], origin & COARSE
        yield Author(
            start,
            end,
            source.number_of(leaf.message_index),
            field_name(leaf.path),
            None if offset == COARSE else offset,
            line,
            leaf.is_key,
        )


def _runs(origins: Origins, lines: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Yield where characters of one string, one after the other, are written by one line."""
    if not len(origins):
        return
    leaf = np.maximum(leaf_of(origins), -1)
    is_place = (origins >= 0) & (origins & COARSE != COARSE)
    same, next_one = origins[1:] == origins[:-1], origins[1:] == origins[:-1] + 1
    is_spread = np.zeros(len(origins), bool)  # one of several that stand for one, as in \"
    is_spread[1:] |= same & is_place[1:]
    is_spread[:-1] |= same & is_place[1:]
    in_step = np.where(is_spread[1:] | is_spread[:-1], same, next_one)
    follows = (leaf[1:] == leaf[:-1]) & (lines[1:] == lines[:-1])
    follows &= in_step | ~(is_place[1:] | is_place[:-1])
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist()]
    yield from zip(starts, [*starts[1:], len(origins)], strict=True)


def field_name(path: str) -> str:
    """Return the path of a string as one writes it: ``tool_calls[0].function.name``."""
    first, *others = path.split("/")
    return first + "".join(f"[{key}]" if key.isdecimal() else f".{key}" for key in others)


def _of_text(example: Example, source: Source, normal: Mapping[str, Any]) -> Iterator[Author]:
    """Yield the runs of a text by its ranges; what is behind the row's text was appended to it."""
    first, last = source.start, source.start + len(example.text)
    if "text" not in normal:  # ids, decoded: where their text came from is not known
        yield Author(0, len(example.text), -1, "input_ids", None, None)
        return
    at, length = first, len(normal["text"])
    owners = [(each["start"], each["end"], place) for place, each in enumerate(normal["weights"])]
    for start, end, owner in [*owners, (length, length, -1)]:
        for begin, until, number in ((at, start, -1), (start, end, owner)):
            begin, until = max(begin, at), min(until, last)
            if begin < until:
                yield Author(begin - first, until - first, number, "text", begin, None)
                at = until
    if at < last:
        yield Author(at - first, last - first, -1, None, None, None)
