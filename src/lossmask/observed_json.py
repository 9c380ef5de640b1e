"""Strings of JSON that a renderer reads and writes anew, found in what it wrote.

In: an observation (``perturbation``), in which the parts of such a string moved, or nothing of it
did. Out: the rendering with the whole value attributed to the string::

    leaf        {"days":2,"now":true}                  a string, as in the OpenAI format
    rendering   [{"name": "f", "arguments": {"days": 2, "now": true}}]
    moved                                     ^^^^   ^  ^^^^          words and digits
    attributed                              ^^^^^^^^^^^^^^^^^^^^^^^^^

The string is replaced by other JSON once more. Where the rendering changes, there it stands: the
value around that place that equals the string's value is its.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lossmask.perturbation import Observation
from lossmask.rendering import Message, shared_length
from lossmask.traced_rendering import Leaf
from lossmask.traced_text import COARSE, LITERAL, Origins, leaf_of

_DECODER = json.JSONDecoder()
_WIDEST_ESCAPE = 6  # characters that one becomes: \u007f
_STARTS = frozenset('{["-0123456789tfn')


def with_json(
    observation: Observation,
    render: Callable[[Sequence[Message]], str],
    messages: Sequence[Message],
) -> Observation:
    """Attribute rewritten JSON to the strings it was read from.

    Args:
        observation: Of ``messages``, as ``observe`` returns it.
        render: What was observed.
        messages: n messages.
    """
    rendering = observation.rendering
    origins = rendering.origins.copy()
    undetermined = dict(observation.undetermined)
    for number, leaf in enumerate(rendering.leaves):
        value = _json_of(leaf, messages)
        if value is None or _is_complete(origins, number, leaf, messages, undetermined):
            continue
        span = _find(value, leaf, rendering.text, render, messages)
        if span is None:
            continue
        inside = origins[span[0] : span[1]]
        if np.isin(leaf_of(inside), (LITERAL, number)).all():
            inside[inside == LITERAL] = (number << 32) | COARSE
            undetermined.pop(leaf, None)
    return replace(
        observation, rendering=replace(rendering, origins=origins), undetermined=undetermined
    )


def _json_of(leaf: Leaf, messages: Sequence[Message]) -> str | None:
    """Return the value of a string of JSON in one spelling, None for other strings."""
    text = string_at(leaf, messages)
    is_arguments = leaf.path.endswith("/arguments")
    if text is None or not (is_arguments or messages[leaf.message_index]["role"] == "tool"):
        return None
    try:
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):
        return None


def string_at(leaf: Leaf, messages: Sequence[Message]) -> str | None:
    """Return the text of a leaf, None for a key and where its path does not lead to a string."""
    found: Any = messages[leaf.message_index]
    for key in leaf.path.split("/"):
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, (list, tuple)) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found if isinstance(found, str) and not leaf.is_key else None


def _is_complete(
    origins: Origins,
    number: int,
    leaf: Leaf,
    messages: Sequence[Message],
    undetermined: Mapping[Leaf, str],
) -> bool:
    """Return whether every visible character of the string is attributed already, in one run."""
    if leaf in undetermined:
        return False
    at = np.flatnonzero(leaf_of(origins) == number)
    shown = set((origins[at] & COARSE).tolist())
    text = string_at(leaf, messages) or ""
    is_run = not at.size or int(at[-1] - at[0]) + 1 == at.size
    return is_run and all(k in shown for k, c in enumerate(text) if not c.isspace())


def _find(
    value: str,
    leaf: Leaf,
    text: str,
    render: Callable[[Sequence[Message]], str],
    messages: Sequence[Message],
) -> tuple[int, int] | None:
    """Return where the value of a leaf stands in the rendering, None if that cannot be told."""
    other = {"{": '{"q": 7}', "[": "[7]"}.get(value[0], "7" if value != "7" else "8")
    if other == value:
        other = value.replace("7", "8")
    try:
        changed = render(_put(messages, leaf, other))
    except Exception:  # a renderer is a program: it may raise anything
        return None
    first = shared_length(text, changed)
    rest = shared_length(text[first:][::-1], changed[first:][::-1])
    last = len(text) - rest
    farthest = max(0, first - _WIDEST_ESCAPE * len(value))
    for start in range(min(first, len(text) - 1), farthest - 1, -1):
        if text[start] not in _STARTS:
            continue
        try:
            found, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end >= last and end > first and json.dumps(found) == value:
            return start, end
    return None


def _put(messages: Sequence[Message], leaf: Leaf, text: str) -> list[Message]:
    def put(value: Any, keys: Sequence[str]) -> Any:
        if not keys:
            return text
        if isinstance(value, Mapping):
            return {**value, keys[0]: put(value[keys[0]], keys[1:])}
        number = int(keys[0])
        return [put(item, keys[1:]) if k == number else item for k, item in enumerate(value)]

    index = leaf.message_index
    changed = put(messages[index], leaf.path.split("/"))
    return [*messages[:index], changed, *messages[index + 1 :]]
