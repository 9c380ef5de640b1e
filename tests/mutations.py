"""Faults put into lossmask on purpose, each by patching one function of one stage.

``test_mutations`` runs a small parity matrix with each of them: a fault that the matrix does not
notice is a hole in the oracle, or code that nothing needs. Here are those of the stages that work
on characters; ``token_mutations`` has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from lossmask import (
    borders,
    completions,
    conversation,
    rendering,
    template_environment,
    traced_formatting,
    traced_text,
    turns,
)
from lossmask.borders import Border
from lossmask.completions import Turn
from lossmask.stops import Stops
from lossmask.template_environment import TracingEnvironment
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import LITERAL, Mark, TracedText

Patch = Callable[[pytest.MonkeyPatch], None]
Noticed = Literal["wrong", "refused"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault.

    Attributes:
        name: What goes wrong, stage first.
        patch: Puts it in.
        noticed: ``wrong``: the oracle finds an example that inference would not have; ``refused``:
            lossmask itself refuses, or crashes on, what was exact before.
        shown_by: The template to begin with, which shows it soonest.
    """

    name: str
    patch: Patch
    noticed: Noticed
    shown_by: str = ""


def returns(owner: Any, name: str, change: Callable[..., Any]) -> Patch:
    """Patch a function: ``change`` gets what it returned, then its arguments."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def changed(*args: Any, **kwargs: Any) -> Any:
            return change(original(*args, **kwargs), *args, **kwargs)

        monkeypatch.setattr(owner, name, changed)

    return patch


def becomes(owner: Any, name: str, value: Any) -> Patch:
    """Replace a function or a constant."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def both(*patches: Patch) -> Patch:
    """Apply several patches: names that were imported elsewhere."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for each in patches:
            each(monkeypatch)

    return patch


def _retraced(text: Any, change: Callable[[Any], Any]) -> Any:
    """Return a traced text with other origins."""
    if not isinstance(text, TracedText):
        return text
    return type(text)(str.__str__(text), change(text._origins), text._marks)


def _without_origins(text: Any, *_: Any, **__: Any) -> Any:
    return _retraced(text, lambda origins: np.full(len(origins), LITERAL, np.int64))


def _reversed(text: Any, *_: Any, **__: Any) -> Any:
    return _retraced(text, lambda origins: origins[::-1])


def _shifted(text: Any, *_: Any, **__: Any) -> Any:
    return _retraced(text, lambda origins: np.where(origins >= 0, origins + 1, origins))


def _drop_last(text: Any, parts: Any) -> Any:
    pieces = [part for part in parts if part]
    if len(pieces) < 2 or not isinstance(pieces[-1], TracedText):
        return text
    kept = len(text) - len(pieces[-1])
    return _retraced(text, lambda origins: np.where(np.arange(len(text)) < kept, origins, LITERAL))


def _concat_that_drops(parts: Any) -> Any:
    listed = list(parts)
    return _drop_last(_CONCAT(listed), listed)


_CONCAT = traced_text.concat
_OTHER_END = {"start": "end", "end": "start"}


def _swapped(mark: Mark) -> TracedText:
    kind: Any = _OTHER_END.get(mark.kind, mark.kind)
    return TracedText("", None, ((0, Mark(kind, mark.message_index)),))


def _of_next_message(mark: Mark) -> TracedText:
    return TracedText("", None, ((0, Mark(mark.kind, mark.message_index + 1)),))


TRACING = [
    Mutant(
        "tracing: offsets inside a string are one too high",
        returns(rendering, "leaf_text", _shifted),
        "refused",
    ),
    Mutant(
        "tracing: a string has the origins of the one before it",
        becomes(
            rendering,
            "leaf_text",
            lambda text, leaf: traced_text.leaf_text(text, max(0, leaf - 1)),
        ),
        "refused",
    ),
    Mutant(
        "tracing: a slice loses its origins",
        returns(TracedText, "_cut", _without_origins),
        "refused",
        "reasoning kept after the last user turn only",
    ),
    Mutant(
        "tracing: trimmed text loses its origins",
        returns(TracedText, "_trimmed", _without_origins),
        "refused",
        "macro and set block",
    ),
    Mutant(
        "tracing: joined text has its origins backwards",
        both(
            returns(traced_formatting, "join", _reversed),
            returns(template_environment, "join", _reversed),
        ),
        "wrong",
        "pieces joined",
    ),
    Mutant(
        "tracing: the last piece of a concatenation loses its origins",
        both(
            becomes(traced_text, "concat", _concat_that_drops),
            becomes(template_environment, "concat", _concat_that_drops),
            becomes(TracingEnvironment, "concat", staticmethod(_concat_that_drops)),
        ),
        "refused",
        "instruction brackets, system in the first user turn",
    ),
    Mutant(
        "tracing: text is traced to the message behind",
        returns(
            Rendering,
            "message_index",
            lambda index, _: np.where(index >= 0, index + 1, index),
        ),
        "refused",
    ),
    Mutant(
        "tracing: turn marks at start and end are swapped",
        becomes(template_environment, "mark_text", _swapped),
        "refused",
        "a hint behind the last question",
    ),
    Mutant(
        "tracing: turn marks name the message behind",
        becomes(template_environment, "mark_text", _of_next_message),
        "refused",
        "a hint behind the last question",
    ),
]


def _moved(by: int) -> Callable[..., Border]:
    return lambda border, *_, **__: replace(border, start=border.start + by, tail=border.tail + by)


def _context_moved(prompt: int, full: int) -> Callable[..., tuple[int, int]]:
    def change(ends: tuple[int, int], *_: Any) -> tuple[int, int]:
        return max(0, ends[0] + prompt), max(0, ends[1] + full)

    return change


def _uncut(border: Border, index: int, prompt: Any, full: Any, *_: Any) -> Border:
    """Take the full rendering where the prompt itself has to stand."""
    return replace(border, text=full.text, origins=full.origins, start=border.tail)


BORDERS = [
    Mutant(
        "borders: the prompt ends one character early",
        returns(completions, "find_border", _moved(-1)),
        "wrong",
    ),
    Mutant(
        "borders: the prompt ends one character late",
        returns(completions, "find_border", _moved(1)),
        "wrong",
    ),
    Mutant(
        "borders: a common prefix ends inside a control token",
        becomes(borders, "_whole_tags", lambda at, texts, tags: at),
        "wrong",
        "thinking opened by the generation prompt",
    ),
    Mutant(
        "borders: a header spelled differently is not noticed",
        becomes(borders, "_end_of_respelled", lambda *_: None),
        "wrong",
        "a stray newline before the header",
    ),
    Mutant(
        "borders: a header spelled differently ends one character late",
        returns(borders, "_end_of_respelled", lambda end, *_: None if end is None else end + 1),
        "wrong",
        "a stray newline before the header",
    ),
    Mutant(
        "borders: nothing of the generation prompt is common",
        becomes(borders, "shared_length", lambda a, b: 0),
        "refused",
        "thinking opened by the generation prompt",
    ),
    Mutant(
        "borders: the context ends one character early in the full rendering",
        returns(borders, "_ends_of_context", _context_moved(0, -1)),
        "refused",
        "thinking opened by the generation prompt",
    ),
    Mutant(
        "borders: the context ends one character late in the full rendering",
        returns(borders, "_ends_of_context", _context_moved(0, 1)),
        "refused",
        "thinking opened by the generation prompt",
    ),
    Mutant(
        "borders: the context is the full rendering's",
        returns(completions, "find_border", _uncut),
        "wrong",
        "system kept only while a user speaks last",
    ),
    Mutant(
        "borders: it is not noticed that the messages before the answer end otherwise",
        becomes(borders, "_check_kept", lambda *_: None),
        "wrong",
        "an answer is joined to the one before by a word",
    ),
    Mutant(
        "borders: the beginning that inference is given counts as generated",
        returns(conversation, "_prefills", lambda prefills, messages: {}),
        "wrong",
    ),
]


def _next_stop(found: Any, stops: Stops, text: str, start: int) -> Any:
    return found and (stops.pattern.search(text, found.end()) or found)


def _without_eos(stops: Stops, text: str, start: int) -> Any:
    return _FIRST_RUN(replace(stops, eos=None), text, start)


_FIRST_RUN = Stops.first_run
_WITH_STOP = Turn.with_stop


STOPS = [
    Mutant(
        "stops: only the first of adjacent terminators",
        becomes(Stops, "first_run", lambda self, text, at: self.pattern.search(text, at)),
        "wrong",
        "two terminators",
    ),
    Mutant(
        "stops: a terminator goes on behind eos",
        becomes(Stops, "first_run", _without_eos),
        "wrong",
        "a terminator behind eos",
    ),
    Mutant(
        "stops: the one after the next",
        returns(Stops, "first_run", _next_stop),
        "wrong",
        "a terminator behind eos",
    ),
    Mutant("stops: none", becomes(Stops, "first_run", lambda *_: None), "wrong"),
    Mutant(
        "stops: the next header is not looked for",
        becomes(Turn, "stopped_by_next_header", lambda self, *_: self),
        "wrong",
        "no end of turn, the next header stops",
    ),
    Mutant(
        "stops: history is not asked for one",
        becomes(turns, "_append_stop", lambda turn, *_: turn),
        "wrong",
        "end of turn between turns only",
    ),
    Mutant(
        "stops: the appended one is another",
        becomes(
            Turn,
            "with_stop",
            lambda self, stop, end, source: _WITH_STOP(self, "<|endoftext|>", end, source),
        ),
        "refused",
        "end of turn between turns only",
    ),
    Mutant(
        "stops: the text that the appended one replaces stays",
        becomes(
            Turn,
            "with_stop",
            lambda self, stop, end, source: _WITH_STOP(self, stop, self.completion_end, source),
        ),
        "wrong",
        "end of turn between turns only",
    ),
    Mutant(
        "stops: one that the template writes before the text ends is not noticed",
        becomes(completions, "_check_no_stop_before", lambda *_: None),
        "wrong",
        "reasoning is a turn of its own",
    ),
]

WRITTEN = [
    Mutant(
        "written: nothing is checked",
        becomes(completions, "check_written", lambda *_: ()),
        "wrong",
        "thinking opened by the generation prompt",
    ),
    Mutant(
        "written: a turn without completion rejects the row",
        becomes(turns, "NOTHING_TO_TRAIN", frozenset()),
        "refused",
    ),
    Mutant(
        "written: text of others in a completion is not noticed",
        becomes(completions, "_check_own", lambda *_: None),
        "wrong",
        "the question is repeated with the answer",
    ),
    Mutant(
        "written: an open think block is not noticed",
        becomes(completions, "_check_think", lambda *_: None),
        "wrong",
        "thinking opened and never closed",
    ),
]

TEXT_MUTANTS = [*TRACING, *BORDERS, *STOPS, *WRITTEN]
