import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmask.errors import PolicyError
from lossmask.swift_loss_scale import NAMED, check_config, weights_of_text


def shown(text: str, config: Any, **keys: Any) -> list[tuple[str, float]]:
    ranges = weights_of_text(text, config, **keys)
    return [(text[each["start"] : each["end"]], each["weight"]) for each in ranges]


def test_delimiters_weigh_themselves_and_what_follows() -> None:
    text = "Hm. Thought: look\nAction: f\nAction Input: {}\nObservation: 42\nFinal Answer: 42"
    assert shown(text, "react") == [
        ("Hm. Thought: look\n", 1.0),
        ("Action: f\nAction Input: {}\nObservation:", 2.0),
        (" 42\n", 0.0),
        ("Final Answer: 42", 1.0),
    ]


def test_delimiters_are_literal_and_the_first_of_two_at_one_place_wins() -> None:
    assert shown("a.b", {".": [3.0, 2.0]}) == [("a", 1.0), (".", 3.0), ("b", 2.0)]
    assert shown("abc", {"a": [2.0, 0.0], "ab": [5.0, 4.0]}) == [("a", 2.0), ("bc", 0.0)]
    assert shown("abc", {"ab": [5.0, 4.0], "a": [2.0, 0.0]}) == [("ab", 5.0), ("c", 4.0)]


def test_expressions_weigh_what_they_match_over_lines_too() -> None:
    text = "Sure.<tool_call>\n{}\n</tool_call> ok <tool_call>x</tool_call>"
    assert shown(text, "hermes") == [
        ("Sure.", 1.0),
        ("<tool_call>\n{}\n</tool_call>", 2.0),
        (" ok ", 1.0),
        ("<tool_call>x</tool_call>", 2.0),
    ]
    assert shown(text, {"<tool_call>(.+?)</tool_call>": [2.0]}) == shown(text, "hermes")


def test_an_empty_think_block_is_ignored_at_the_beginning_only() -> None:
    assert shown("<think>\n\n</think>\n\nYes", "ignore_empty_think") == [
        ("<think>\n\n</think>\n\n", 0.0),
        ("Yes", 1.0),
    ]
    assert shown("<think>hm</think>Yes", "ignore_empty_think") == [("<think>hm</think>Yes", 1.0)]
    assert shown("Yes<think></think>", "ignore_empty_think") == [("Yes<think></think>", 1.0)]


def test_a_chain_multiplies_and_begins_anew_in_each_piece() -> None:
    text = "<think></think><tool_call>x</tool_call>"
    expected = [("<think></think>", 0.0), ("<tool_call>x</tool_call>", 2.0)]
    assert shown(text, "ignore_empty_think+hermes") == expected
    assert shown("a1b1", [{"b": [2.0, 2.0]}, {r"^[ab]?1": [3.0]}]) == [
        ("a1", 3.0),
        ("b", 2.0),
        ("1", 6.0),
    ]


def test_what_the_user_said_can_weigh_the_whole_response() -> None:
    config = {"query": {"JSON": [0.5], "code": 0.25}, "response": {"x": [2.0]}}
    assert shown("axa", config, query="as JSON") == [("axa", 0.5)]
    assert shown("axa", config, query="as code") == [("axa", 0.25)]
    assert shown("axa", config, query="hi") == [("a", 1.0), ("x", 2.0), ("a", 1.0)]
    with pytest.raises(PolicyError, match="asks what the user said"):
        weights_of_text("axa", config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("hermez", "unknown loss_scale 'hermez'; did you mean 'hermes'"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "chain two configurations"),
        ({"a": [1.0, 2.0, 3.0]}, "expected 1 or 2 numbers"),
        ({"a": []}, "expected 1 or 2 numbers"),
        ({"a": [True]}, "expected 1 or 2 numbers"),
        ({"": [1.0, 1.0]}, "expected 1 or 2 numbers"),
        ({"(": [1.0]}, "is no regular expression"),
        ({"a*": [1.0]}, "matches nothing at all"),
        ([3], "unknown loss_scale 3"),
    ],
)
def test_configurations_that_are_not_swifts_are_refused(config: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        check_config(config)


def test_no_rule_no_change() -> None:
    assert shown("abc", {}) == [("abc", 1.0)]
    assert weights_of_text("", "hermes") == []
    for name in NAMED:
        check_config(name)


@given(st.text("ab1\n", max_size=12), st.sampled_from(["a", "b1", r"\d", "^a", "a.", "1+?b"]))
def test_ranges_cover_the_text_and_agree_with_finditer(text: str, pattern: str) -> None:
    ranges = weights_of_text(text, {pattern: [0.0]})
    assert "".join(text[each["start"] : each["end"]] for each in ranges) == text
    weights = [each["weight"] for each in ranges for _ in range(each["start"], each["end"])]
    expected = [1.0] * len(text)
    for match in re.finditer(pattern, text, re.DOTALL):
        expected[match.start() : match.end()] = [0.0] * (match.end() - match.start())
    assert weights == expected
