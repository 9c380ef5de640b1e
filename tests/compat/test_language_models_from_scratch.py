"""Batches of the book, with one end-of-text each, wherever it stands."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossmask import InputError, PolicyError
from lossmask.compat import (
    InstructionDataset,
    custom_collate_fn,
    format_input,
    split_data,
)

END = 50256
BOOK_BATCH = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n"
)


class Letters:
    """A tokenizer whose ids are the numbers of the characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def collated(batch: list[list[int]], **options: Any) -> tuple[list[list[int]], list[list[int]]]:
    inputs, targets = custom_collate_fn(batch, **options)
    assert inputs.dtype == targets.dtype == torch.int64
    return inputs.tolist(), targets.tolist()


def test_the_batch_of_the_book() -> None:
    assert collated(BOOK_BATCH) == (
        [[0, 1, 2, 3, 4], [5, 6, END, END, END], [7, 8, 9, END, END]],
        [[1, 2, 3, 4, END], [6, END, -100, -100, -100], [8, 9, END, -100, -100]],
    )
    assert BOOK_BATCH == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_options() -> None:
    assert collated(BOOK_BATCH[:2], pad_token_id=99, ignore_index=-1, allowed_max_length=4) == (
        [[0, 1, 2, 3], [5, 6, 99, 99]],
        [[1, 2, 3, 4], [6, 99, -1, -1]],
    )
    assert custom_collate_fn([[1]], device=torch.device("meta"))[1].device.type == "meta"


def test_an_end_of_text_that_is_there_gets_no_second_one() -> None:
    assert collated([[5, 6, END], [1, 2, 3, 4]]) == (
        [[5, 6, END, END], [1, 2, 3, 4]],
        [[6, END, -100, -100], [2, 3, 4, END]],
    )
    assert collated([[5, END, END]])[1] == [[END, -100, -100]]
    assert collated([[END], []]) == ([[END], [END]], [[END], [END]])


def test_an_end_of_text_inside_does_not_cost_the_one_at_the_end() -> None:
    assert collated([[5, END, 6]])[1] == [[END, 6, END]]


def test_an_empty_batch_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one text"):
        custom_collate_fn([])


ITEMS = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@given(st.lists(ITEMS, min_size=1, max_size=4), st.none() | st.integers(1, 7))
def test_each_target_is_the_next_input_and_one_end_is_kept(
    batch: list[list[int]], limit: int | None
) -> None:
    inputs, targets = collated(batch, allowed_max_length=limit)
    for item, mine, following in zip(batch, inputs, targets, strict=True):
        assert mine == [*item, *[END] * 9][: len(mine)]
        assert following == [*item[1:], END, *[-100] * 9][: len(mine)]


def test_the_prompt_of_an_entry() -> None:
    assert format_input({"instruction": "Add.", "output": ""}) == PROMPT + "Add."
    assert format_input({"instruction": "Add.", "input": ""}) == PROMPT + "Add."
    assert format_input({"instruction": "Add.", "input": "1"}) == PROMPT + "Add.\n\n### Input:\n1"


def test_the_dataset_holds_the_ids_of_whole_texts() -> None:
    data = InstructionDataset([{"instruction": "Add.", "input": "1", "output": "2"}], Letters())
    text = PROMPT + "Add.\n\n### Input:\n1\n\n### Response:\n2"
    assert len(data) == 1
    assert data[0] == [ord(character) for character in text]
    loader: Any = torch.utils.data.DataLoader(data, collate_fn=custom_collate_fn)
    [(inputs, targets)] = loader
    assert inputs.shape == targets.shape == (1, len(text))
    assert targets[0, -1] == END


@pytest.mark.parametrize("entry", [{"output": "2"}, {"instruction": "Add."}])
def test_a_missing_key_is_an_error(entry: dict[str, str]) -> None:
    missing = "instruction" if "output" in entry else "output"
    with pytest.raises(InputError, match=re.escape(f"no '{missing}'; it has {list(entry)}")):
        InstructionDataset([entry], Letters())


def test_the_split_of_the_book() -> None:
    split = split_data(list(range(1100)))
    assert split.train == list(range(935))
    assert split.test == list(range(935, 1045))
    assert split.validation == list(range(1045, 1100))
    assert split_data([1, 2, 3], train_portion=0, test_portion=1).test == [1, 2, 3]
    with pytest.raises(PolicyError, match=re.escape("train_portion 0.95 and test_portion 0.1")):
        split_data([], train_portion=0.95)
