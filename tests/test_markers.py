"""Responses are exactly the characters between the markers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmask import InputError, PolicyError
from lossmask.markers import Marker, ranges

HUMAN, ASSISTANT = "### Human:", "### Assistant:"


def taken(text: str, response: Marker, instruction: Marker | None = None) -> list[str]:
    found = ranges(text, response, instruction)
    assert all(each["weight"] == 1.0 for each in found)
    return [text[each["start"] : each["end"]] for each in found]


def test_a_response_goes_to_the_next_instruction_or_the_end() -> None:
    text = "### Human: a\n### Assistant: b\n### Human: c\n### Assistant: d"
    assert taken(text, ASSISTANT, HUMAN) == [" b\n", " d"]
    assert ranges("x### Assistant:yz", ASSISTANT) == [{"start": 15, "end": 17, "weight": 1.0}]


def test_without_instruction_markers_the_last_response_marker_counts() -> None:
    text = "### Human: a\n### Assistant: b\n### Human: c\n### Assistant: d\n### Human: e"
    assert taken(text, ASSISTANT) == [" d\n### Human: e"]


def test_turns_of_one_kind_may_follow_each_other() -> None:
    text = "H: a H: b A: c A: d H: e"
    assert taken(text, "A:", "H:") == [" c ", " d "]
    assert taken("A: first H: q A: second", "A:", "H:") == [" first ", " second"]


def test_several_roles_of_either_kind() -> None:
    text = "S: be kind U: hi T: 42 B: hello C: bye U: end"
    assert taken(text, ["B:", "C:"], ["S:", "U:", "T:"]) == [" hello ", " bye "]


def test_an_instruction_marker_of_several_need_not_be_there() -> None:
    assert taken("U: hi B: hello", "B:", ["S:", "U:"]) == [" hello"]


def test_the_longest_marker_at_a_place_counts() -> None:
    text = "\n### A:\nx\n### A: y"
    assert taken(text, ["### A:", "### A:\n"], "\n### ") == ["x", " y"]


def test_a_marker_inside_another_one_is_none() -> None:
    text = "<user>hi<assistant>I am the assistant"
    assert taken(text, "<assistant>", ["<user>", "assistant>"]) == ["I am the assistant"]


def test_overlapping_markers_leave_nothing_between_them() -> None:
    assert taken("Q:a\nA:\nQ:b\nA:\nc", "A:\n", ["Q:", "\nQ:"]) == ["c"]


def test_an_empty_response_is_left_out() -> None:
    assert taken("Q:aA:Q:bA:c", "A:", "Q:") == ["c"]


def test_markers_are_no_patterns() -> None:
    assert taken("[INST] a [/INST] b", "[/INST]", "[INST]") == [" b"]


@pytest.mark.parametrize(
    ("text", "response", "instruction", "named"),
    [
        ("### Human: hi", ASSISTANT, HUMAN, "response marker '### Assistant:' is not in the text "),
        ("### Human: hi", ASSISTANT, None, "begins '### Human: hi'"),
        ("### Assistant: hi", ASSISTANT, HUMAN, "instruction marker '### Human:'"),
        ("hi", ["A:", "B:"], None, "'A:' or 'B:'"),
        ("", ASSISTANT, None, "begins ''"),
        ("y" * 61, ASSISTANT, None, "y" * 60 + "…'"),
    ],
)
def test_an_absent_marker_is_an_error_that_names_it(
    text: str, response: Marker, instruction: Marker | None, named: str
) -> None:
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        ranges(text, response, instruction)
    assert caught.value.reason == "marker_absent"


def test_nothing_behind_the_marker_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing follows the response marker") as caught:
        ranges("### Human: a\n### Assistant:", ASSISTANT, HUMAN)
    assert caught.value.reason == "empty_response"


@pytest.mark.parametrize(
    ("response", "instruction", "named"),
    [
        ("", None, "response_template holds ''"),
        ([], None, "response_template is empty"),
        (["a", 1], None, "response_template holds 1"),
        ("a", [""], "instruction_template holds ''"),
        ("a", ["b", "a"], "'a' is a response marker and an instruction marker"),
    ],
)
def test_markers_have_to_be_strings_that_differ(
    response: Any, instruction: Any, named: str
) -> None:
    with pytest.raises(PolicyError, match=re.escape(named)):
        ranges("text", response, instruction)


def test_the_text_has_to_be_text() -> None:
    with pytest.raises(InputError, match="got NoneType"):
        ranges(None, ASSISTANT)  # type: ignore[arg-type]


TURNS = st.lists(st.tuples(st.sampled_from("HA"), st.text("xy \n", min_size=1)), min_size=1)


@given(TURNS)
def test_the_responses_of_any_conversation_come_back(turns: list[tuple[str, str]]) -> None:
    text = "H:start" + "".join(f"{role}:{content}" for role, content in turns)
    expected = [content for role, content in turns if role == "A"]
    if expected:
        assert taken(text, "A:", "H:") == expected
    else:
        with pytest.raises(InputError, match="response marker 'A:'"):
            ranges(text, "A:", "H:")
