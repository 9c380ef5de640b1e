"""Text made from values: JSON, Python's ``repr``, ``%`` and ``str.format``, with origins kept.

In: values that hold traced strings. Out: exactly the text that the untraced function would return,
as a traced string. Each function computes the plain result too and compares; where the pieces do
not add up to it, the whole takes the coarse origin instead of a guessed one.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import markupsafe

from lossmask.traced_text import (
    TracedFloat,
    TracedInt,
    TracedText,
    coarse,
    concat,
    join,
    marks_of,
    runs_of_text,
    substitute,
)

_PERCENT = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?(?P<flags>[#0\- +]*)(?P<rest>[\d.*]*)(?P<kind>[a-zA-Z%])"
)


def has_traced(value: object) -> bool:
    """Return whether a traced string lies anywhere inside ``value``."""
    if isinstance(value, (TracedText, TracedInt, TracedFloat)):
        return True
    if isinstance(value, Mapping):
        return any(has_traced(key) or has_traced(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(has_traced(item) for item in value)


def dumps(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Serialise to JSON as transformers' ``tojson`` filter does, keeping origins.

    The signature, defaults and result are those of ``json.dumps`` as chat templates see it.
    """
    plain = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if not has_traced(value):
        return plain
    item, key = separators or (", " if indent is None else ",", ": ")
    unit = " " * indent if isinstance(indent, int) else indent
    traced = _JsonWriter(ensure_ascii, unit, item, key, sort_keys).write(value, 0)
    return traced if traced == plain else coarse(plain, (value,))


class _JsonWriter:
    """The recursion of :func:`dumps`, holding its options."""

    def __init__(
        self, ensure_ascii: bool, unit: str | None, item: str, key: str, sort_keys: bool
    ) -> None:
        self.ensure_ascii = ensure_ascii
        self.unit = unit
        self.item = item
        self.key = key
        self.sort_keys = sort_keys

    def write(self, value: Any, depth: int) -> str:
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, dict):
            pairs = sorted(value.items()) if self.sort_keys else list(value.items())
            entries = [
                concat((self._key(key), self.key, self.write(item, depth + 1)))
                for key, item in pairs
            ]
            return self._block("{", entries, "}", depth)
        if isinstance(value, (list, tuple)):
            return self._block("[", [self.write(item, depth + 1) for item in value], "]", depth)
        return coarse(json.dumps(value, ensure_ascii=self.ensure_ascii), (value,))

    def _key(self, key: Any) -> str:
        return self._string(key if isinstance(key, str) else json.dumps(key))

    def _string(self, text: str) -> str:
        expected = json.dumps(text, ensure_ascii=self.ensure_ascii)
        body = substitute(
            text,
            lambda character: json.dumps(character, ensure_ascii=self.ensure_ascii)[1:-1],
            expected[1:-1],
        )
        return concat(('"', body, '"'))

    def _block(self, opening: str, entries: list[str], closing: str, depth: int) -> str:
        if not entries:
            return opening + closing
        if self.unit is None:
            return concat((opening, join(self.item, entries), closing))
        inner = "\n" + self.unit * (depth + 1)
        body = join(self.item + inner, entries)
        return concat((opening, inner, body, "\n" + self.unit * depth, closing))


def text_of(value: Any) -> str:
    """Return ``str(value)`` with the origins of the strings inside lists, tuples and dicts."""
    if isinstance(value, str):
        return value
    plain = str(value)
    if not has_traced(value):
        return plain
    traced = _repr_of(value)
    return traced if traced == plain else coarse(plain, (value,))


def _repr_of(value: Any) -> str:
    if isinstance(value, str):
        plain = repr(value)
        quote = plain[0]
        body = substitute(value, lambda character: _escaped(character, quote), plain[1:-1])
        return concat((quote, body, quote))
    if isinstance(value, dict):
        entries = [concat((_repr_of(key), ": ", _repr_of(item))) for key, item in value.items()]
        return concat(("{", join(", ", entries), "}"))
    if isinstance(value, list):
        return concat(("[", join(", ", [_repr_of(item) for item in value]), "]"))
    if isinstance(value, tuple):
        comma = "," if len(value) == 1 else ""
        return concat(("(", join(", ", [_repr_of(item) for item in value]), comma, ")"))
    return coarse(repr(value), (value,))


def _escaped(character: str, quote: str) -> str:
    if character in "'\"":
        return "\\" + character if character == quote else character
    return repr(character)[1:-1]


class SafeText(TracedText):
    """What ``|safe`` makes of a string: text that escapes whatever is added to it.

    Chat templates are rendered without autoescape, yet ``"a" + x|safe`` still escapes ``"a"``:
    the traced twin of ``markupsafe.Markup`` has to do the same.
    """

    __slots__ = ()

    def __html__(self) -> str:
        return self

    def __str__(self) -> str:
        return TracedText._with_runs(str.__str__(self), self._runs, self._marks)

    def __add__(self, other: str) -> str:
        return safe(concat((self, escaped(other)))) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return safe(concat((escaped(other), self))) if isinstance(other, str) else NotImplemented

    def join(self, items: Iterable[str], /) -> str:
        return safe(join(self, [escaped(item) for item in items]))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        return safe(TracedText.replace(self, old, escaped(new), count))


def safe(value: object) -> SafeText:
    """Return the traced twin of ``Markup(value)``."""
    text = text_of(value)
    safe_text = SafeText._with_runs(str.__str__(text), runs_of_text(text), marks_of(text))
    assert isinstance(safe_text, SafeText)
    return safe_text


def escaped(text: str) -> str:
    """Return ``markupsafe.escape(text)`` with origins; safe text stays as it is."""
    if hasattr(text, "__html__"):
        return text
    return substitute(text, lambda c: str(markupsafe.escape(c)), str(markupsafe.escape(text)))


def format_pieces(
    formatter: string.Formatter, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[str]:
    """Return the pieces of ``template.format(…)``, fields without format with their origins."""
    pieces: list[str] = []
    automatic = 0
    for literal, name, specification, conversion in formatter.parse(template):
        pieces.append(literal)
        if name is None:
            continue
        if name == "" or name[0] in ".[":
            name, automatic = f"{automatic}{name}", automatic + 1
        value, _ = formatter.get_field(name, args, kwargs)
        converted = formatter.convert_field(value, conversion)
        if specification or conversion:
            written = formatter.format_field(converted, specification or "")
            pieces.append(coarse(written, (value,)))
        else:
            pieces.append(text_of(value))
    return pieces


def percent_format(template: str, values: Any) -> str:
    """Return ``template % values`` with the origins of plain ``%s`` arguments kept."""
    plain = str.__mod__(template, values)
    if not has_traced(template) and not has_traced(values):
        return plain
    try:
        traced = concat(_percent_pieces(template, values))
    except (TypeError, ValueError, KeyError):  # a format this does not take apart
        return coarse(plain, (template, values))
    return traced if traced == plain else coarse(plain, (template, values))


def _percent_pieces(template: str, values: Any) -> list[str]:
    arguments = list(values) if isinstance(values, tuple) else [values]
    pieces, at = [], 0
    for found in _PERCENT.finditer(template):
        pieces.append(template[at : found.start()])
        at = found.end()
        if found["kind"] == "%":
            pieces.append("%")
            continue
        if found["key"] is not None:
            value = values[found["key"]]
        elif arguments:
            value = arguments.pop(0)
        else:
            break
        if found["kind"] == "s" and not found["flags"] and not found["rest"]:
            pieces.append(text_of(value))
        else:
            specification = f"%{found['flags']}{found['rest']}{found['kind']}"
            pieces.append(coarse(str.__mod__(specification, (value,)), (value,)))
    return [*pieces, template[at:]]
