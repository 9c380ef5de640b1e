"""JSON that a renderer writes anew belongs to the string it was read from, as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from lossmask.observed_json import with_json
from lossmask.perturbation import observe
from lossmask.rendering import Message
from lossmask.traced_text import leaf_of
from tests.scenarios import assistant, call, tool, user


def render(messages: Sequence[Message]) -> str:
    """Write calls and results as JSON read from their strings, as mistral-common does."""
    lines = []
    for message in messages:
        calls = [each["function"] for each in message.get("tool_calls") or []]
        parsed = [each | {"arguments": json.loads(each["arguments"])} for each in calls]
        content = message["content"]
        if message["role"] == "tool":
            content = json.dumps({"result": _parsed(content)})
        lines.append(f"{message['role']}: {content} {json.dumps(parsed)}")
    return "\n".join(lines)


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def attributed(messages: list[Message], path: str) -> str:
    """Return what the rendering shows of one string, ``·`` where something else stands between."""
    observation = with_json(observe(render, messages), render, messages)
    rendering = observation.rendering
    leaves = [leaf.path for leaf in rendering.leaves if leaf.message_index == 1]
    [leaf] = [
        k
        for k, each in enumerate(rendering.leaves)
        if (each.message_index, each.path) == (1, path) and not each.is_key
    ]
    assert path in leaves
    if rendering.leaves[leaf] in observation.undetermined:
        return "undetermined"
    at = np.flatnonzero(leaf_of(rendering.origins) == leaf)
    if not at.size:
        return ""
    span = range(int(at[0]), int(at[-1]) + 1)
    return "".join(rendering.text[k] if k in set(at.tolist()) else "·" for k in span)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "Rome", "days": 2}', '{"city": "Rome", "days": 2}'),
        ('{"city":"Rome","days":2}', '{"city": "Rome", "days": 2}'),
        ('{"only":true}', '{"only": true}'),
        ("{}", "{}"),
        ('{"a":{}}', '{"a": {}}'),
        ('{"x":0.50,"y":1e3}', '{"x": 0.5, "y": 1000.0}'),
        ('{"q":7}', '{"q": 7}'),
        ('{"q": 7}', '{"q": 7}'),
        ("[1,2]", "[1, 2]"),
        ('{"quote":"\\"\\u00e9\\n"}', '{"quote": "\\"\\u00e9\\n"}'),
    ],
)
def test_arguments_are_found_as_a_whole(arguments: str, shown: str) -> None:
    messages = [user("Q0 {} [] 7"), assistant("A1", tool_calls=[call("f", arguments)])]
    assert attributed(messages, "tool_calls/0/function/arguments") == shown


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ('{"ok":true}', '{"ok": true}'),
        ("[]", "[]"),
        ("true", "true"),
        ("7", "7"),
        ("0.50", "0.5"),
        ('"quoted"', '"quoted"'),
        ("sunny", "sunny"),
    ],
)
def test_results_are_found_as_a_whole(result: str, shown: str) -> None:
    assert attributed([user("Q0 [] true 0.5"), tool(result)], "content") == shown


def test_two_calls_with_the_same_arguments_are_told_apart() -> None:
    calls = [call("f", "{}", 1), call("f", "{}", 2)]
    messages = [user("Q0"), assistant("A1", tool_calls=calls)]
    rendering = with_json(observe(render, messages), render, messages).rendering
    first = rendering.text.index("{}")
    second = rendering.text.index("{}", first + 1)
    owners = [rendering.origin(at)[0] for at in (first, first + 1, second, second + 1)]
    paths = [owner.path if owner else None for owner in owners]
    assert paths == [
        *["tool_calls/0/function/arguments"] * 2,
        *["tool_calls/1/function/arguments"] * 2,
    ]


def test_what_becomes_of_a_value_that_is_not_written_stays_untold() -> None:
    def hides(messages: Sequence[Message]) -> str:
        lengths = [len(m["tool_calls"][0]["function"]["arguments"]) for m in messages]
        return f"{lengths}"

    messages = [assistant("", tool_calls=[call("f", '{"a":1}')])]
    observation = with_json(observe(hides, messages), hides, messages)
    assert (leaf_of(observation.rendering.origins) < 0).all()


def test_the_same_json_elsewhere_is_not_taken_for_it() -> None:
    def as_python(messages: Sequence[Message]) -> str:
        arguments = messages[0]["tool_calls"][0]["function"]["arguments"]
        return f"note [true] {json.loads(arguments)!r}"

    messages = [assistant("", tool_calls=[call("f", "[true]")])]
    rendering = with_json(observe(as_python, messages), as_python, messages).rendering
    assert rendering.text == "note [true] [True]"
    assert (rendering.message_index() == -1).all()


def test_json_with_text_of_another_string_in_it_is_not_attributed() -> None:
    def borrows(messages: Sequence[Message]) -> str:
        arguments = json.loads(messages[1]["tool_calls"][0]["function"]["arguments"])
        return json.dumps(dict.fromkeys(arguments, messages[0]["content"]))

    messages = [user("Rome"), assistant("", tool_calls=[call("f", '{"city":"Rome"}')])]
    rendering = with_json(observe(borrows, messages), borrows, messages).rendering
    assert rendering.text == '{"city": "Rome"}'
    assert not (rendering.message_index() == 1).any()


def test_text_that_is_no_json_is_left_alone() -> None:
    messages = [user('{"a":1}'), assistant('{"b":2}')]
    observation = observe(render, messages)
    assert with_json(observation, render, messages).rendering.origins.tolist() == (
        observation.rendering.origins.tolist()
    )
