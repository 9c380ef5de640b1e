import math

import pytest

from lossmask import row_values
from lossmask.errors import ConversationError


def test_json_in_strings_is_parsed_and_other_values_stay() -> None:
    assert row_values.parsed("[1]", "history") == [1]
    assert row_values.parsed([1], "history") == [1]
    with pytest.raises(ConversationError, match="'history' is a string but not JSON"):
        row_values.parsed("[['a', 'b']]", "history")


@pytest.mark.parametrize("value", [True, "1", math.nan, math.inf, 10**400, None])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ConversationError, match="'weight' must be a finite number"):
        row_values.number(value, "weight")


def test_yes_and_no_are_also_one_and_zero_but_nothing_else() -> None:
    assert [row_values.yes_or_no(value, "train") for value in (True, 0, 1.0)] == [True, False, True]
    for value in (2, 0.5, "true", None, [1]):
        with pytest.raises(ConversationError, match="'train' must be true or false"):
            row_values.yes_or_no(value, "train")


def test_objects_names_the_first_item_that_is_none() -> None:
    with pytest.raises(ConversationError, match="message 1: 'messages' must be a list of objects"):
        row_values.objects([{}, "x"], "messages")
    with pytest.raises(ConversationError, match="'messages' must be a list, got an object"):
        row_values.objects({}, "messages")
    assert row_values.objects('[{"a": 1}]', "messages") == [{"a": 1}]


def test_bare_functions_are_wrapped_only_where_asked() -> None:
    bare = {"name": "f", "parameters": {}}
    assert row_values.read_tools([bare]) == [bare]
    assert row_values.read_tools([bare], wrap=True) == [{"type": "function", "function": bare}]
    wrapped = [{"type": "function", "function": bare}]
    assert row_values.read_tools(wrapped, wrap=True) == wrapped
    assert row_values.read_tools("") == row_values.read_tools(None) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a tool call must be JSON with 'name' and 'arguments'"),
        ("[]", "the list of tool calls is empty"),
        ('{"arguments": {}}', "got an object with the keys arguments"),
        ("[1]", "got int 1"),
    ],
)
def test_what_is_no_call_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConversationError, match=message) as caught:
        row_values.call_from_json(text, "value", 3)
    assert (caught.value.reason, caught.value.message_index) == ("bad_tool_call", 3)


def test_a_number_too_long_to_write_is_named() -> None:
    assert row_values.kind(10**5000) == "int a number of too many digits"
