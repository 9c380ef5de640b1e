"""ms-swift's ``loss_scale`` configurations: weights of a response by what stands in it.

A configuration is JSON, of one of two kinds::

    {"Action:": [2.0, 2.0], "Observation:": [2.0, 0.0]}     delimiters: [itself, what follows]
    {"<tool_call>(.+?)</tool_call>": [2.0]}                 regular expressions: [what matches]

Text before the first delimiter, and text that no expression matches, has the weight 1. Several
configurations (``hermes+ignore_empty_think``) are a chain: each is applied to the pieces that the
one before cut, so that ``^`` is the beginning of a piece, and the weights are multiplied. In: a
text and a configuration. Out: ranges of characters that cover the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lossmask.errors import PolicyError
from lossmask.layout import nearest_name

Config = Mapping[str, Any]

NAMED: dict[str, Config] = {
    "react": {
        "Action:": [2.0, 2.0],
        "Action Input:": [2.0, 2.0],
        "Thought:": [1.0, 1.0],
        "Final Answer:": [1.0, 1.0],
        "Observation:": [2.0, 0.0],
    },
    "hermes": {r"<tool_call>.+?</tool_call>": [2.0]},
    "ignore_empty_think": {r"^<think>\s*</think>\s*": [0.0]},
}
"""The configurations known by name."""


def weights_of_text(
    text: str, config: str | Config | Sequence[str | Config], *, query: str | None = None
) -> list[dict[str, Any]]:
    """Return the weight of each character of a response.

    Differs from ms-swift in one thing: text between two matches is weighed by what matches *in* it,
    nothing; ms-swift tries the expressions on it once more, anchored at its beginning.

    Args:
        text: The response.
        config: A configuration, several to be chained, or names joined by ``+``.
        query: What the user said, for configurations of the form ``{"query": {...}, "response":
            {...}}``: the first key that it contains gives the whole response its weight.

    Returns:
        ``{"start", "end", "weight"}``: half-open, in order, covering the text, touching ones of
        different weights.

    Raises:
        PolicyError: The configuration is not one of ms-swift's.

    Example:
        >>> weights_of_text("Hm. Action: go", {"Action:": [2.0, 0.5]})[1:]
        [{'start': 4, 'end': 11, 'weight': 2.0}, {'start': 11, 'end': 14, 'weight': 0.5}]
    """
    pieces = [(0, len(text), 1.0)]
    for each in _chain(config):
        pieces = [
            (start + piece_start, start + piece_end, weight * factor)
            for start, end, weight in pieces
            for piece_start, piece_end, factor in _pieces(text[start:end], each, query)
        ]
    ranges: list[dict[str, Any]] = []
    for start, end, weight in pieces:
        if start == end:
            continue
        if ranges and ranges[-1]["weight"] == weight:
            ranges[-1]["end"] = end
        else:
            ranges.append({"start": start, "end": end, "weight": weight})
    return ranges


def check_config(config: str | Config | Sequence[str | Config]) -> None:
    """Check a configuration before any text is there.

    Raises:
        PolicyError: It is not one of ms-swift's.
    """
    for each in _chain(config):
        _pieces("", each, "")


def _chain(config: str | Config | Sequence[str | Config]) -> list[Config]:
    if isinstance(config, Mapping):
        return [config]
    names = config.split("+") if isinstance(config, str) else list(config)
    chain: list[Config] = []
    for each in names:
        if isinstance(each, Mapping):
            chain.append(each)
        elif isinstance(each, str) and each in NAMED:
            chain.append(NAMED[each])
        else:
            hint = nearest_name(str(each), NAMED)
            raise PolicyError(
                f"unknown loss_scale {each!r}; {hint + ' ' if hint else ''}known: "
                f"{', '.join(NAMED)}; give others as the mapping in their JSON file"
            )
    return chain


def _pieces(text: str, config: Config, query: str | None) -> list[tuple[int, int, float]]:
    """Cut a text as one configuration says: ``(start, end, weight)``, covering it."""
    if set(config) == {"query", "response"}:
        by_query, config = config["query"], config["response"]
        if not isinstance(by_query, Mapping) or not isinstance(config, Mapping):
            raise PolicyError("loss_scale: 'query' and 'response' must be mappings")
        scales = {key: _scales(key, value, (1,)) for key, value in by_query.items()}
        if query is None:
            raise PolicyError(
                "loss_scale: this configuration asks what the user said; give 'query'"
            )
        for key, scale in scales.items():
            if key in query:
                return [(0, len(text), scale[0])]
    rules = {key: _scales(key, value, (1, 2)) for key, value in config.items()}
    lengths = {len(scales) for scales in rules.values()}
    if len(lengths) > 1:
        raise PolicyError(
            "loss_scale: keys with one value are regular expressions, keys with two delimiters; "
            "ms-swift reads only the delimiters where both are there: chain two configurations"
        )
    if not rules:
        return [(0, len(text), 1.0)]
    return list(_cut(text, rules, is_literal=lengths == {2}))


def _cut(
    text: str, rules: Mapping[str, tuple[float, ...]], *, is_literal: bool
) -> Iterator[tuple[int, int, float]]:
    end, follows = 0, 1.0
    for start, stop, scales in _matches(text, rules, is_literal=is_literal):
        yield end, start, follows
        yield start, stop, scales[0]
        end, follows = stop, scales[1] if is_literal else 1.0
    yield end, len(text), follows


def _matches(
    text: str, rules: Mapping[str, tuple[float, ...]], *, is_literal: bool
) -> Iterator[tuple[int, int, tuple[float, ...]]]:
    """Yield the matches of all rules, the leftmost first, at one place the first rule's."""
    sources = [re.escape(key) if is_literal else key for key in rules]
    patterns = [_compiled(source) for source in sources]
    scales = list(rules.values())
    position = 0
    while position <= len(text):
        found = [
            (match.start(), number, match.end())
            for number, pattern in enumerate(patterns)
            if (match := pattern.search(text, position)) and match.end() > match.start()
        ]
        if not found:
            return
        start, number, position = min(found)
        yield start, position, scales[number]


def _compiled(source: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(source, re.DOTALL)
    except re.error as error:
        raise PolicyError(f"loss_scale: {source!r} is no regular expression: {error}") from error
    if pattern.fullmatch(""):
        raise PolicyError(f"loss_scale: {source!r} matches nothing at all, everywhere")
    return pattern


def _scales(key: object, value: Any, lengths: tuple[int, ...]) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    are_numbers = all(
        isinstance(each, (int, float)) and not isinstance(each, bool) for each in values
    )
    if not isinstance(key, str) or not key or len(values) not in lengths or not are_numbers:
        raise PolicyError(
            f"loss_scale: {key!r} is {value!r}; expected {' or '.join(map(str, lengths))} numbers"
        )
    return tuple(float(each) for each in values)
