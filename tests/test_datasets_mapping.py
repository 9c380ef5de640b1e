"""Inside ``datasets.map`` every row becomes examples, raises, or says why it was rejected."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import numpy as np
import pytest

from lossmask import Encoder, InputError, Policy, PolicyError
from lossmask.datasets_mapping import map_batch
from lossmask.embedded import DEMO_MODEL
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import WEATHER, assistant, call, user

GOOD = [user("q"), assistant("a")]
OTHER = [user("q2"), assistant("a2")]
BAD = [{"role": "user", "content": "no answer"}]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def test_columns_are_those_of_the_examples(encoder: Encoder) -> None:
    columns = map_batch(encoder, {"messages": [GOOD, OTHER]})
    assert list(columns) == ["input_ids", "labels", "loss_weights"]
    for k, messages in enumerate([GOOD, OTHER]):
        [example] = encoder.encode(messages)
        for name, values in columns.items():
            assert values[k].dtype == (np.float32 if name == "loss_weights" else np.int64)
            assert np.array_equal(values[k], getattr(example, name))


def test_a_row_of_several_examples_is_several_rows() -> None:
    template = FIXTURE_TEMPLATES["reasoning kept after the last user turn only"]
    encoder = Encoder(Encoder.from_pretrained(DEMO_MODEL).tokenizer, chat_template=template)
    thinking = [user("q"), assistant("a", reasoning_content="r"), *OTHER]
    assert len(encoder.encode(thinking)) == 2
    columns = map_batch(encoder, {"messages": [GOOD, thinking]}, [7, 8])
    assert columns["row"] == [7, 8, 8]
    assert len(columns["input_ids"]) == 3


def test_a_rejected_row_raises_and_is_named(encoder: Encoder) -> None:
    batch = {"messages": [GOOD, BAD]}
    with pytest.raises(InputError, match=r"^row 1 of the batch: no_assistant: ") as info:
        map_batch(encoder, batch)
    assert info.value.reason == "no_assistant"
    with pytest.raises(InputError, match=r"^row 41: no_assistant: "):
        map_batch(encoder, batch, [40, 41])


def test_a_rejected_row_can_be_recorded(encoder: Encoder) -> None:
    columns = map_batch(encoder, {"messages": [BAD, GOOD]}, on_reject="record")
    assert [len(ids) for ids in columns["input_ids"]] == [0, len(columns["labels"][1])]
    assert columns["rejection"][0].startswith("no_assistant: no message has the role 'assistant'")
    assert columns["rejection"][1] == ""


def test_other_ways_to_reject_are_refused(encoder: Encoder) -> None:
    with pytest.raises(PolicyError, match="on_reject is 'skip'; allowed: error, record"):
        map_batch(encoder, {}, on_reject="skip")  # type: ignore[arg-type]


def test_columns_of_different_lengths_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="the columns of a batch differ in length"):
        map_batch(encoder, {"messages": [GOOD], "tools": []})


@pytest.mark.parametrize("as_stream", [False, True])
def test_datasets_map_takes_it(encoder: Encoder, as_stream: bool) -> None:
    rows = [{"messages": messages, "id": str(k)} for k, messages in enumerate([GOOD, BAD, OTHER])]
    dataset: Any = datasets.Dataset.from_list(rows)
    if as_stream:
        dataset = dataset.to_iterable_dataset()
    mapped = dataset.map(
        partial(map_batch, encoder, on_reject="record"),
        batched=True,
        batch_size=2,
        with_indices=True,
        remove_columns=["messages", "id"],
    )
    found = list(mapped)
    assert [row["row"] for row in found] == [0, 1, 2]
    assert [bool(row["rejection"]) for row in found] == [False, True, False]
    for k, messages in ((0, GOOD), (2, OTHER)):
        [example] = encoder.encode(messages)
        assert list(found[k]["input_ids"]) == example.input_ids.tolist()
        assert list(found[k]["labels"]) == example.labels.tolist()
        assert list(found[k]["loss_weights"]) == example.loss_weights.tolist()


def test_filled_nulls_are_not_seen_and_others_are() -> None:
    template = FIXTURE_TEMPLATES["chatml with tools"]
    encoder = Encoder(Encoder.from_pretrained(DEMO_MODEL).tokenizer, chat_template=template)
    called = [user("q"), assistant("", tool_calls=[call("weather", {"city": None})])]
    plain = [user("q"), assistant("a")]
    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = datasets.Features(
        {
            "messages": datasets.List({**message, "tool_calls": datasets.Json()}),
            "tools": datasets.Json(),
        }
    )
    rows = [{"messages": called, "tools": [WEATHER]}, {"messages": plain, "tools": None}]
    mapped = datasets.Dataset.from_list(rows, features=features).map(
        partial(map_batch, encoder), batched=True, remove_columns=["messages", "tools"]
    )
    expected = [encoder.encode(called, [WEATHER]), encoder.encode(plain)]
    assert '{"city": null}' in expected[0][0].text
    for found, [example] in zip(mapped, expected, strict=True):
        assert found["input_ids"] == example.input_ids.tolist()


def test_tokens_to_ignore_go_along_and_ask_for_indices() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy(ignore=("no",)))
    batch = {"messages": [[user("Q"), assistant("yes no")]]}
    with pytest.raises(PolicyError, match="call map with with_indices=True"):
        encoder.map_batch(batch)
    columns = encoder.map_batch(batch, [7])
    assert columns["index"] == [7]
    [ignorable], [ids] = columns["ignorable"], columns["input_ids"]
    assert encoder.tokenizer.decode(ids[ignorable]) == " no"
