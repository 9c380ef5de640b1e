import copy
import json
from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.formats import FORMATS, format_of, to_normal, without_filled_none
from lossmask.layout import COLUMNS, Layout
from tests import corpus

USER = {"role": "user", "content": "hi"}
BLOCKS = {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}

ROWS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER]}, "openai"),
    ({"conversations": [USER]}, "openai"),
    ({"messages": [{**USER, "name": "Bob", "channel": None}]}, "openai"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "openai"),
    ({"messages": [USER, BLOCKS]}, "anthropic"),
    ({"messages": [USER], "tools": [{"name": "f", "input_schema": {}}]}, "anthropic"),
    ({"messages": [USER], "system": [{"type": "text", "text": "s"}]}, "anthropic"),
    ({"messages": [{"role": "assistant", "channel": "final", "content": "x"}]}, "harmony"),
    ({"messages": [{"author": {"role": "user"}, "content": "x"}]}, "harmony"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "value": "x"}]}]}, "llamafactory"),
    ({"conversations": [{"from": "human", "value": "hi"}]}, "sharegpt"),
    ({"messages": [{"from": "human", "value": "hi"}]}, "sharegpt"),
    ({"conversation": [{"human": "hi", "assistant": "ho"}]}, "sharegpt"),
    ({"instruction": "a", "output": "b", "id": 3, "messages": None}, "alpaca"),
    ({"prompt": "a", "completion": "b"}, "prompt_completion"),
    ({"query": "a", "response": "b", "history": []}, "query_response"),
    ({"segments": [{"label": True, "text": "a"}]}, "segments"),
    ({"text": "a"}, "text"),
    ({"input_ids": [1], "labels": [1]}, "tokens"),
]


@pytest.mark.parametrize(("row", "name"), ROWS, ids=[f"{n}-{i}" for i, (_, n) in enumerate(ROWS)])
def test_the_format_of_a_row(row: dict[str, Any], name: str) -> None:
    assert format_of(row) == name
    before = copy.deepcopy(row)
    read = to_normal(row)
    assert row == before, "the row given is not changed"
    assert to_normal(row, Layout(format=name)) == read
    assert to_normal(read) == read


def test_every_format_is_told() -> None:
    assert {name for _, name in ROWS} == set(FORMATS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"mesages": [USER]},
            "no format reads the keys mesages; .*'mesages': did you mean 'messag",
        ),
        ({}, r"no format reads the keys \(none\)"),
        (
            {"instruction": "a"},
            "no format reads the keys instruction; .*'instruction' and 'output'",
        ),
        (
            {"instruction": "a", "output": "b", "text": "c"},
            r"'output' \(alpaca\) and 'text' \(text",
        ),
        (
            {"messages": [USER], "text": "c"},
            r"'messages' and 'text' \(text\): name it in the layout",
        ),
        ({"messages": [USER], "conversations": [USER]}, "'messages' and 'conversations'"),
        (
            {"messages": [BLOCKS, {"role": "assistant", "tool_calls": []}]},
            r"mix what only different formats have \(anthropic, openai\)",
        ),
        ({"text": None, "messages": "x"}, "'messages' is a string but not JSON"),
    ],
)
def test_rows_that_fit_none_or_several_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        to_normal(row)


def test_a_stray_loss_key_is_refused_but_for_tokens() -> None:
    with pytest.raises(ConversationError, match="the row has 'loss_mask', which is read on mess"):
        to_normal({"messages": [USER], "loss_mask": [0]})
    assert to_normal({"input_ids": [1], "loss_mask": [0]})["loss_weights"] == [0.0]


def test_a_row_must_be_an_object() -> None:
    with pytest.raises(ConversationError, match="a row must be an object, got a list"):
        to_normal([])  # type: ignore[arg-type]


def test_a_named_format_asks_for_its_keys() -> None:
    row = {"instruction": "a", "output": "b", "text": "c"}
    assert to_normal(row, Layout(format="text"))["text"] == "c"
    with pytest.raises(
        ConversationError, match="format 'query_response' needs 'query' and 'respon"
    ):
        to_normal(row, Layout(format="query_response"))
    with pytest.raises(
        ConversationError, match=r"expected one of 'conversations'.*keys: instruction"
    ):
        to_normal(row, Layout(format="sharegpt"))


def test_columns_have_other_names() -> None:
    layout = Layout(columns={"query": "question", "response": "answer"})
    assert to_normal({"question": "a", "answer": "b"}, layout) == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    }
    with pytest.raises(
        ConversationError, match="reads 'query' from 'question', but the row has both"
    ):
        to_normal({"question": "a", "answer": "b", "query": "c"}, layout)
    swapped = Layout(columns={"prompt": "completion", "completion": "prompt"})
    assert to_normal({"prompt": "b", "completion": "a"}, swapped)["text"] == "ab"


def test_roles_and_message_keys_have_other_names() -> None:
    layout = Layout(
        columns={"messages": "dialog"},
        message_keys={"role": "speaker", "content": "utterance"},
        roles={"customer": "user", "agent": "assistant"},
    )
    row = {
        "dialog": [
            {"speaker": "customer", "utterance": "a"},
            {"speaker": "agent", "utterance": "b"},
        ]
    }
    assert to_normal(row, layout)["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_every_column_that_is_needed_can_be_renamed() -> None:
    for row, _ in ROWS:
        assert set(row) - {"id"} <= set(COLUMNS)


def test_a_row_of_arrow_loses_what_arrow_filled_in() -> None:
    filled = {
        "messages": [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"function": {"name": "f", "arguments": {"a": None, "b": [None, {"c": None}]}}}
                ],
            }
        ],
        "tools": None,
    }
    assert without_filled_none(filled) == {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": {"b": [None, {}]}}}],
            }
        ]
    }


def test_a_null_argument_of_json_survives() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": None}}}
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert to_normal(row) == row


def _bare(message: dict[str, Any]) -> dict[str, Any]:
    """Return what the corpus does not make up: ids of calls are its own."""
    kept = {key: value for key, value in message.items() if key != "tool_call_id"}
    if kept["role"] == "tool":
        kept.pop("name", None)
    if kept["role"] != "assistant":
        kept.pop("weight", None)
    if "loss" in kept:
        kept["weight"] = float(kept.pop("loss"))
    if "tool_calls" in kept:
        kept["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"}
            for call in kept["tool_calls"]
        ]
    return kept


@corpus.needs_corpus
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rasbt-instruction-1100.raw.json", "alpaca"),
        ("fastchat-dummy.raw.json", "sharegpt"),
        ("lf-glaive-toolcall-en-demo.raw.json", "sharegpt"),
        ("lf-reason-tool-use-50.raw.jsonl", "llamafactory"),
        ("lf-v1-sft-weights.raw.jsonl", "llamafactory"),
        ("xtuner-qwen35-cases.raw.jsonl", "openai"),
    ],
)
def test_published_rows_are_read_as_their_twins(name: str, expected: str) -> None:
    text = (corpus.ROOT / "datasets" / name).read_bytes().decode("utf-8")
    lines = [line for line in text.split("\n") if line]
    raw = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in lines]
    twins = corpus.rows(name.partition(".")[0])
    for row, twin in zip(raw, twins, strict=True):
        assert format_of(row) == expected
        read = to_normal(row)
        assert [_bare(message) for message in read["messages"]] == [
            _bare(message) for message in twin["messages"]
        ]
        assert read.get("tools") == twin.get("tools")


@corpus.needs_corpus
def test_published_tokens_are_read() -> None:
    path = corpus.ROOT / "datasets" / "axolotl-fixture.raw.tokenized_llama2chat.json"
    row = json.loads(path.read_text(encoding="utf-8"))
    read = to_normal(row)
    length = sum(row["attention_mask"])
    assert read["input_ids"] == row["input_ids"][:length]
    assert read["loss_weights"] == [float(label != -100) for label in row["labels"][:length]]


@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_the_normal_form_of_published_messages_is_stable(name: str) -> None:
    for row in corpus.rows(name, limit=300):
        read = to_normal(row)
        assert to_normal(read) == read
