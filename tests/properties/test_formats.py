"""Rows in the normal form survive being written in another layout and read back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmask.converting import TARGETS, convert_row
from lossmask.errors import ConversationError
from lossmask.formats import to_normal

Row = dict[str, Any]

TEXT = st.text(st.sampled_from("ab <é😀\n\"'{"), max_size=6)
SAID = st.text(st.sampled_from("ab é😀\n"), min_size=1, max_size=6)
WEIGHT = st.sampled_from([0.0, 1.0, 1.0, 0.5, -1.0])
ZERO_OR_ONE = st.sampled_from([0.0, 1.0])
ARGUMENTS = st.dictionaries(
    st.sampled_from("qn"), st.one_of(st.none(), st.integers(-9, 9), TEXT), max_size=2
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]


@st.composite
def calls(draw: st.DrawFn, with_ids: st.SearchStrategy[bool]) -> list[Row]:
    listed = []
    for number in range(draw(st.integers(1, 2))):
        arguments = draw(ARGUMENTS)
        function = {"name": draw(st.sampled_from("fg")), "arguments": arguments}
        named = {"id": f"c{number}"} if draw(with_ids) else {}
        listed.append({**named, "type": "function", "function": function})
    return listed


@st.composite
def ranges_of(
    draw: st.DrawFn, text: str, path: str, weights: st.SearchStrategy[float]
) -> list[Row]:
    if not text or draw(st.booleans()):
        return []
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=4)))
    cuts = cuts if len(cuts) > 1 else [0, len(text)]
    return [
        {"path": path, "start": start, "end": end, "weight": draw(weights)}
        for start, end in zip(cuts[::2], cuts[1::2], strict=False)
    ]


@st.composite
def any_message(draw: st.DrawFn) -> Row:
    role = draw(st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]))
    parts = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), max_size=2)
    content: Any = draw(st.one_of(TEXT, TEXT, parts))
    message: Row = {"role": role, "content": content}
    if role == "assistant" and draw(st.booleans()):
        message["tool_calls"] = draw(calls(st.booleans()))
        if draw(st.booleans()):
            message["content"] = None
        if draw(st.booleans()):
            message["tool_calls"][0]["function"]["arguments"] = '{"q":  1}'
    if role == "assistant" and draw(st.booleans()):
        message["reasoning_content"] = draw(TEXT)
    if draw(st.booleans()):
        message["weight"] = draw(WEIGHT)
    if isinstance(message["content"], str):
        ranges = draw(ranges_of(message["content"], "content", WEIGHT))
        ranges += draw(ranges_of(message.get("reasoning_content", ""), "reasoning_content", WEIGHT))
        if ranges:
            message["weights"] = ranges
    if role in ("tool", "user") and draw(st.booleans()):
        message["name"] = "f"
    return message


@st.composite
def any_chat(draw: st.DrawFn) -> Row:
    row: Row = {"messages": draw(st.lists(any_message(), min_size=1, max_size=5))}
    if draw(st.booleans()):
        row["tools"] = TOOLS
    if draw(st.booleans()):
        row["weight"] = draw(WEIGHT)
    return to_normal(row)


@st.composite
def any_text(draw: st.DrawFn) -> Row:
    text = draw(TEXT)
    ranges = draw(ranges_of(text, "text", WEIGHT))
    for each in ranges:
        del each["path"]
    return to_normal({"text": text, "weights": ranges})


@st.composite
def any_tokens(draw: st.DrawFn) -> Row:
    ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    weights = draw(st.lists(WEIGHT, min_size=len(ids), max_size=len(ids)))
    return to_normal({"input_ids": ids, "loss_weights": weights})


def through_json(row: Row) -> Row:
    read: Row = json.loads(json.dumps(row))
    return read


@given(st.one_of(any_chat(), any_text(), any_tokens()))
def test_the_normal_form_is_read_as_itself(row: Row) -> None:
    assert to_normal(through_json(row)) == row


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=60)
@given(st.data())
def test_a_row_reads_back_as_it_was_or_its_losses_are_reported(
    target: str, data: st.DataObject
) -> None:
    row = data.draw(any_chat())
    before = through_json(row)
    try:
        converted, losses = convert_row(row, target)
    except ConversationError:
        assert target in ("alpaca", "anthropic", "swift")
        return
    assert row == before, "the row given is not changed"
    read = to_normal(through_json(converted))
    if not losses:
        assert read == row


@given(st.one_of(any_text(), any_tokens()))
def test_text_and_tokens_read_back_from_axolotl(row: Row) -> None:
    converted, losses = convert_row(row, "axolotl")
    read = to_normal(through_json(converted))
    assert (read == row) or losses


def plain_turns(draw: st.DrawFn, target: str) -> list[Row]:
    """Return messages that the target has words for."""
    messages: list[Row] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(SAID)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT if target == "alpaca" else SAID)})
        if target != "alpaca" and draw(st.booleans()):
            with_ids = st.just(target in ("openai", "axolotl", "anthropic"))
            call: Row = {"role": "assistant", "content": "", "tool_calls": draw(calls(with_ids))}
            result: Row = {"role": "tool", "content": draw(TEXT)}
            if target in ("openai", "axolotl", "anthropic"):
                call["reasoning_content"] = draw(TEXT)
                result["tool_call_id"] = "c0"
            messages += [call, result]
        messages.append({"role": "assistant", "content": draw(TEXT)})
    return messages


@st.composite
def sayable(draw: st.DrawFn, target: str) -> Row:
    row: Row = {"messages": plain_turns(draw, target)}
    weights = ZERO_OR_ONE if target in ("axolotl", "swift") else WEIGHT
    for message in row["messages"]:
        is_loss_of_answers = target == "swift" and message["role"] != "assistant"
        has_place = target != "alpaca" and (target != "anthropic" or message["role"] != "system")
        if has_place and draw(st.booleans()):
            message["weight"] = draw(st.just(0.0) if is_loss_of_answers else weights)
        if target == "axolotl" and message.get("weight") == 1.0:
            ranges = draw(ranges_of(message["content"], "content", st.just(0.0)))
            if ranges:
                message["weights"] = ranges
    if target != "alpaca" and draw(st.booleans()):
        row["tools"] = TOOLS
    if target not in ("axolotl", "swift") and draw(st.booleans()):
        row["weight"] = draw(WEIGHT)
    return to_normal(row)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=40)
@given(st.data())
def test_what_a_target_has_words_for_is_kept_exactly(target: str, data: st.DataObject) -> None:
    row = data.draw(sayable(target))
    converted, losses = convert_row(row, target)
    assert losses == []
    assert to_normal(through_json(converted)) == row
