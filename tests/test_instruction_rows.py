from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.instruction_rows import alpaca_row, prompt_completion_row, query_response_row
from lossmask.layout import Layout


def contents(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


@pytest.mark.parametrize(
    ("instruction", "given", "question"),
    [
        ("Add", "1 2", "Add\n\n1 2"),
        ("Add", "", "Add"),
        ("Add", None, "Add"),
        ("", "1 2", "1 2"),
        ("Add\n", " 1", "Add\n\n\n 1"),
    ],
)
def test_an_instruction_and_its_input(instruction: str, given: str | None, question: str) -> None:
    row = {"instruction": instruction, "input": given, "output": "3"}
    assert contents(alpaca_row(row, Layout())) == [("user", question), ("assistant", "3")]


def test_the_separator_is_the_layouts() -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "weight": 2}
    read = alpaca_row(row, Layout(input_separator=" | "))
    assert contents(read)[0] == ("user", "Add | 1 2")
    assert read["weight"] == 2.0


def test_history_comes_before_and_is_trained_like_the_rest() -> None:
    row = {"query": "c", "response": "d", "history": [["a", "b"]], "system": "s"}
    expected = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    read = query_response_row(row, Layout())
    assert contents(read) == [*expected, ("assistant", "d")]
    assert not any("weight" in message for message in read["messages"])
    assert query_response_row({**row, "history": '[["a", "b"]]'}, Layout()) == read
    assert contents(query_response_row({**row, "history": ""}, Layout()))[1] == ("user", "c")


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([["a"]], "must be a list of \\[question, answer\\], got a list at 0"),
        ([["a", 1]], "'history' must be a string, got int 1"),
        ({}, "'history' must be a list of pairs, got an object"),
    ],
)
def test_histories_that_cannot_be_read(history: object, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        query_response_row({"query": "c", "response": "d", "history": history}, Layout())


def test_strings_are_text_with_the_completion_in_the_loss() -> None:
    row = {"prompt": "1+1=", "completion": " 2", "sample_weight": 3}
    assert prompt_completion_row(row, Layout()) == {
        "text": "1+1= 2",
        "weights": [{"start": 4, "end": 6, "weight": 1.0}],
        "weight": 3.0,
    }
    assert prompt_completion_row({"prompt": "a", "completion": ""}, Layout())["weights"] == []


def test_messages_of_the_prompt_are_out_of_the_loss() -> None:
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    completion = [{"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"}]
    row = {"prompt": prompt, "completion": completion, "tools": [{"name": "f"}]}
    read = prompt_completion_row(row, Layout())
    assert [message.get("weight") for message in read["messages"]] == [0.0, 0.0, None, None]
    assert read["tools"] == [{"name": "f"}]
    assert "weight" not in prompt[0]


def test_a_prompt_that_asks_to_be_trained_is_refused() -> None:
    prompt = [{"role": "user", "content": "a", "train": True}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "c"}]}
    with pytest.raises(
        ConversationError, match=r"out of the loss, but it has the weight 1\.0 of its"
    ):
        prompt_completion_row(row, Layout())


def test_a_string_and_messages_do_not_go_together() -> None:
    with pytest.raises(ConversationError, match="two lists of messages, got a string and a list"):
        prompt_completion_row({"prompt": "a", "completion": []}, Layout())


def test_a_call_cannot_be_cut_from_its_answer() -> None:
    row = {
        "prompt": [{"role": "assistant", "content": "a"}],
        "completion": [{"role": "tool_call", "content": '{"name": "f"}'}],
    }
    with pytest.raises(ConversationError, match="goes on with a tool call of the prompt's last"):
        prompt_completion_row(row, Layout())
