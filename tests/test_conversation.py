"""A row is a checked conversation, or an error that names message and key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lossmask import ConversationError
from lossmask.conversation import ROLES, read_conversation
from tests.scenarios import WEATHER, assistant, call, system, user

PAIR = [user("q"), assistant("a")]


def refused(messages: object, tools: object = None) -> ConversationError:
    with pytest.raises(ConversationError) as info:
        read_conversation(messages, tools)
    return info.value


def test_messages_and_tools_are_kept_as_they_are() -> None:
    messages = [system("s"), user("q"), assistant("a", tool_calls=[call("f", {"x": 1})], extra=2)]
    conversation = read_conversation(messages, [WEATHER])
    assert list(conversation.messages) == messages
    assert conversation.tools == (WEATHER,)
    assert conversation.weights == (None, None, None)


def test_training_keys_are_not_shown_to_the_template() -> None:
    conversation = read_conversation([user("q"), assistant("a", train=True, weight=0.5)])
    assert conversation.messages[1] == assistant("a")
    assert conversation.weights == (None, 0.5)


def test_the_given_messages_are_not_changed() -> None:
    message = assistant("a", train=False)
    read_conversation([user("q"), message])
    assert message == assistant("a", train=False)


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({}, None),
        ({"train": True}, 1.0),
        ({"train": False}, 0.0),
        ({"train": None, "weight": None}, None),
        ({"weight": 0}, 0.0),
        ({"weight": 0.25}, 0.25),
        ({"weight": 3}, 3.0),
        ({"train": True, "weight": 2}, 2.0),
        ({"train": False, "weight": 0}, 0.0),
    ],
)
def test_train_and_weight_set_the_weight_of_a_message(
    keys: dict[str, Any], weight: float | None
) -> None:
    conversation = read_conversation([user("q"), assistant("a", **keys), assistant("b")])
    assert conversation.weights == (None, weight, None)


def _deep(levels: int) -> Any:
    return [_deep(levels - 1)] if levels else "bottom"


def test_lists_may_lie_a_hundred_deep_inside_each_other() -> None:
    message = user([_deep(97)])
    assert read_conversation([message, assistant("a")], [{"a": _deep(98)}]).messages[0] == message


@pytest.mark.parametrize("role", ROLES)
def test_every_known_role_is_read(role: str) -> None:
    conversation = read_conversation([{"role": role, "content": "x"}, assistant("a")])
    assert conversation.messages[0]["role"] == role


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "tool_calls": [call("f", {})]},
        {"role": "assistant", "content": None, "tool_calls": [call("f", {})]},
        {"role": "assistant", "reasoning_content": "r"},
        {"role": "assistant", "content": None, "thinking": "r"},
        {"role": "assistant", "content": None, "reasoning": "r"},
    ],
)
def test_content_may_be_text_parts_or_stand_ins(message: dict[str, Any]) -> None:
    assert read_conversation([user("q"), message]).messages[1] == message


@pytest.mark.parametrize(
    ("tools", "kept"),
    [
        (None, None),
        ([], None),
        ("[]", None),
        ("null", None),
        ([WEATHER], (WEATHER,)),
        ((WEATHER,), (WEATHER,)),
        ('[{"type": "function"}]', ({"type": "function"},)),
    ],
)
def test_tools_are_a_list_or_the_same_as_json(tools: object, kept: object) -> None:
    assert read_conversation(PAIR, tools).tools == kept


@pytest.mark.parametrize(
    ("messages", "reason", "index", "detail"),
    [
        (None, "bad_conversation", None, "'messages' must be a list, got null"),
        ("hi", "bad_conversation", None, "'messages' must be a list, got a string"),
        ({"role": "user"}, "bad_conversation", None, "'messages' must be a list, got an object"),
        (7, "bad_conversation", None, "'messages' must be a list, got int 7"),
        ([], "empty_conversation", None, "'messages' is empty"),
        (
            [user("q"), "a"],
            "bad_conversation",
            1,
            "expected an object with 'role' and 'content', got a string",
        ),
        (
            [{"content": "x", "from": "human"}],
            "missing_key",
            0,
            "the key 'role' is missing; keys found: content, from",
        ),
        ([{}], "missing_key", 0, "the key 'role' is missing; keys found: none"),
        (
            [user("q"), {"role": "bot", "content": "x"}],
            "unknown_role",
            1,
            "unknown role 'bot'; known: system, developer, user, assistant, tool, function",
        ),
        ([{"role": ["user"], "content": "x"}], "unknown_role", 0, "unknown role ['user']; known: "),
        ([{"role": "user"}], "missing_key", 0, "the key 'content' is missing"),
        ([user(None)], "missing_key", 0, "'content' is null and there are no 'tool_calls'"),
        (
            [{"role": "assistant", "tool_calls": []}],
            "missing_key",
            0,
            "the key 'content' is missing",
        ),
        (
            [user(5)],
            "bad_conversation",
            0,
            "'content' must be a string or a list of parts, got int 5",
        ),
        (
            [user({"text": "x"})],
            "bad_conversation",
            0,
            "'content' must be a string or a list of parts, got an object",
        ),
        ([assistant("a", train=2)], "bad_conversation", 0, "'train' must be true or false, got"),
        (
            [assistant("a", weight=-1e300)],
            "bad_conversation",
            0,
            "float32, got float -1e+300",
        ),
        ([assistant("a", weight="1")], "bad_conversation", 0, "float32, got a string"),
        ([assistant("a", weight=True)], "bad_conversation", 0, "float32, got bool True"),
        (
            [assistant("a", weight=float("nan"))],
            "bad_conversation",
            0,
            "'weight' must be a finite number of float32, got float nan",
        ),
        ([user("q") | {7: "x"}], "bad_conversation", 0, "every key of a message must be a string"),
        ([user([_deep(99)])], "bad_conversation", 0, "more than 100 deep inside each other"),
        ([{"role": _deep(99)}], "unknown_role", 0, "unknown role [[[[[[[...]]]]]]]; known: "),
        (
            [assistant("a", train=10**5000)],
            "bad_conversation",
            0,
            "a number of too many digits",
        ),
        (
            [assistant("a", train=True, weight=0)],
            "contradicting_weights",
            0,
            "'weight' is 0 but 'train' is True: they contradict each other",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    messages: object, reason: str, index: int | None, detail: str
) -> None:
    error = refused(messages)
    assert (error.reason, error.message_index) == (reason, index)
    assert re.search(re.escape(detail), error.detail)


@pytest.mark.parametrize(
    ("tools", "detail"),
    [
        ("[", "'tools' is a string but not JSON: Expecting value: line 1 column 2"),
        ({}, "'tools' must be a list of objects, got an object"),
        ([1], "'tools' must be a list of objects, got a list"),
        ('"x"', "'tools' must be a list of objects, got a string"),
        ('{"a": 1}', "'tools' must be a list of objects, got an object"),
        ([{"a": b"x"}], "'tools' holds something that is not JSON: Object of type bytes"),
        ([{"a": 10**5000}], "'tools' holds something that is not JSON: Exceeds the limit"),
        ([{"a": _deep(99)}], "'tools': lists and objects lie more than 100 deep"),
    ],
)
def test_tools_that_cannot_be_used_are_named(tools: object, detail: str) -> None:
    assert detail in refused(PAIR, tools).detail


@pytest.mark.parametrize(
    "tools",
    [
        "[" * 100_000,
        "[" + "1" * 5000 + "]",
    ],
    ids=["too deep", "too long a number"],
)
def test_tools_whose_json_python_cannot_read_are_refused(tools: str) -> None:
    assert "'tools' is a string but not JSON" in refused(PAIR, tools).detail


@pytest.mark.parametrize("weight", [10**400, 1e300, 1e-50], ids=["10**400", "1e300", "1e-50"])
def test_a_weight_that_float32_cannot_hold_is_refused(weight: float) -> None:
    error = refused([user("q"), assistant("a", weight=weight)])
    assert "'weight' must be a finite number of float32" in error.detail


@pytest.mark.parametrize(
    "calls", ["f()", [1], [{}], [{"function": "f"}], [{"function": {"arguments": {}}}]]
)
def test_tool_calls_without_the_name_of_a_function_are_refused(calls: object) -> None:
    error = refused([user("q"), assistant("a", tool_calls=calls)])
    assert (error.reason, error.message_index) == ("bad_tool_call", 1)
    assert error.detail.startswith("'tool_calls")


def test_the_old_function_call_names_its_successor() -> None:
    error = refused([user("q"), assistant("a", function_call={"name": "f", "arguments": "{}"})])
    assert (error.reason, error.message_index) == ("bad_tool_call", 1)
    assert "use 'tool_calls'" in error.detail
