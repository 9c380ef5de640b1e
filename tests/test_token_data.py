"""Plain data spells the example: every token once, with its id, weight, message and author."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lossmask import Encoder, Example, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.policy import PARTS
from lossmask.token_data import PieceTable, token_data
from tests.scenarios import Message, assistant, system, user

CHAT = [system("Be brief."), user("Hi \U0001f600"), assistant("Hello")]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def expanded(runs: list[list[Any]]) -> list[Any]:
    return [value for count, value in runs for _ in range(count)]


def of(encoder: Encoder, messages: list[Message]) -> tuple[Example, dict[str, Any]]:
    [example] = encoder.encode(messages)
    data = token_data(example, messages)
    assert json.loads(json.dumps(data)) == data
    return example, data


def test_pieces_spell_the_text_and_hold_every_id(encoder: Encoder) -> None:
    example, data = of(encoder, CHAT)
    pieces = [data["table"][number] for number in data["pieces"]]
    assert "".join(piece[0] for piece in pieces) == example.text
    ids = [each if isinstance(each, list) else [each] for _, each, *_ in pieces]
    assert [each for of_piece in ids for each in of_piece] == example.input_ids.tolist()
    assert len({(piece[0], str(piece[1])) for piece in data["table"]}) == len(data["table"])


def test_runs_give_the_message_and_weight_of_every_token(encoder: Encoder) -> None:
    example, data = of(encoder, CHAT)
    assert expanded(data["messages"]) == example.message_index.tolist()
    assert expanded(data["weights"]) == example.loss_weights.tolist()
    assert data["tokens"] == len(example)
    assert data["supervised"] == example.supervised_count
    assert data["roles"] == ["system", "user", "assistant"]
    [stop] = data["stops"]
    assert example.input_ids[stop] in encoder.stop_ids
    assert example.loss_mask[stop]


def test_a_weight_is_the_shortest_number_that_rounds_to_it() -> None:
    policy = Policy(weights={"prompt": 0.1, "content": -2})
    _, data = of(Encoder.from_pretrained(DEMO_MODEL, policy), CHAT)
    assert {weight for _, weight in data["weights"]} == {0, 0.1, -2, 1}


def test_tokens_that_share_a_character_have_bytes_of_their_own(encoder: Encoder) -> None:
    [example] = encoder.encode(CHAT)
    table = PieceTable(lambda number: bytes([number % 256]))
    data = token_data(example, CHAT, table=table)
    assert "table" not in data
    [shared] = [entry for entry in table.entries if "\U0001f600" in entry[0]]
    assert len(shared[1]) == len(shared[2]) > 1
    assert shared[2] == [f"{number % 256:02x}" for number in shared[1]]


def test_examples_of_a_page_share_their_pieces(encoder: Encoder) -> None:
    [example] = encoder.encode(CHAT)
    table = PieceTable()
    first, second = (token_data(example, CHAT, table=table) for _ in range(2))
    assert first == second
    assert len(table.entries) <= len(example)


def test_text_that_no_token_stands_for_is_a_piece_without_ids() -> None:
    example = Example(
        " a b ",
        np.array([5, 6, 7], np.int32),
        np.array([[1, 2], [2, 2], [3, 4]], np.int32),
        np.array([0, 0, 1], np.float32),
        np.array([-1, -1, 0], np.int32),
        (),
        ignorable=np.array([False, False, True]),
    )
    data = token_data(example, [])
    drawn = [data["table"][number] for number in data["pieces"]]
    assert drawn == [[" ", []], ["a", 5], ["", 6], [" ", []], ["b", 7], [" ", []]]
    assert data["ignorable"] == [[2, 0], [1, 1]]


def test_a_token_names_what_it_is_part_of(encoder: Encoder) -> None:
    example, data = of(encoder, CHAT)
    assert example.parts is not None
    assert expanded(data["parts"]) == [PARTS[part] for part in example.parts]
    assert expanded(data["parts"])[data["stops"][0]] == "stop"
