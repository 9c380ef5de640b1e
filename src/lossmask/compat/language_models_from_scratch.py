r"""Chapter 7 of S. Raschka's "Build a Large Language Model (From Scratch)": data and batches.

Batches are ``(inputs, targets)``, the targets shifted by one already, as the book's own loss reads
them. The targets keep one end-of-text each, told by its position: where a text holds end-of-text
tokens of its own, the book kept the first of them and masked the one at the end::

    item       5  6  7                     0 is end-of-text
    inputs     5  6  7  0  0
    targets    6  7  0 -100 -100
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lossmask.errors import InputError, PolicyError
from lossmask.example import IGNORE_INDEX

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

    _Dataset = Dataset[list[int]]
else:
    _Dataset = object  # a loader asks for no more than length and items

_END_OF_TEXT = 50256  # of GPT-2


class TextEncoder(Protocol):
    """A tokenizer, of tiktoken or of transformers."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...


def format_input(entry: Mapping[str, str]) -> str:
    r"""Return the prompt of one Alpaca entry, in the book's words.

    Raises:
        InputError: ``instruction`` is missing.

    Example:
        >>> format_input({"instruction": "Add.", "input": "1, 2"})[-38:]
        '### Instruction:\nAdd.\n\n### Input:\n1, 2'
    """
    prompt = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{_value(entry, 'instruction')}"
    )
    given = entry.get("input")
    return f"{prompt}\n\n### Input:\n{given}" if given else prompt


def _value(entry: Mapping[str, str], key: str) -> str:
    if key not in entry:
        raise InputError(f"the entry has no {key!r}; it has {sorted(entry)}", reason="missing_key")
    return entry[key]


class InstructionDataset(_Dataset):
    """Entries as ids: prompt, ``### Response:`` and output, without an end-of-text.

    Args:
        data: Entries with ``instruction``, ``output`` and perhaps ``input``.
        tokenizer: Encodes text; must add no end-of-text, which the collate function does.

    Raises:
        InputError: A key is missing from an entry.
    """

    def __init__(self, data: Sequence[Mapping[str, str]], tokenizer: TextEncoder) -> None:
        self.data = data
        self.encoded_texts = [
            tokenizer.encode(f"{format_input(entry)}\n\n### Response:\n{_value(entry, 'output')}")
            for entry in data
        ]

    def __getitem__(self, index: int) -> list[int]:
        return self.encoded_texts[index]

    def __len__(self) -> int:
        return len(self.data)


def custom_collate_fn(
    batch: Sequence[Sequence[int]],
    pad_token_id: int = _END_OF_TEXT,
    ignore_index: int = IGNORE_INDEX,
    allowed_max_length: int | None = None,
    device: str | torch.device = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad a batch and shift its targets.

    Args:
        batch: Ids of each text.
        pad_token_id: The end-of-text: put behind each text, and padded with.
        ignore_index: Target of the padding.
        allowed_max_length: Cut inputs and targets to this.
        device: Where the tensors go.

    Returns:
        Inputs and targets, int64 of shape (texts, length): ``targets[i, k]`` is what follows
        ``inputs[i, :k + 1]``. An item that ends with an end-of-text gets no second one as target.

    Raises:
        InputError: The batch is empty.

    Example:
        >>> inputs, targets = custom_collate_fn([[5, 6, 7], [8]], pad_token_id=0)
        >>> inputs.tolist(), targets.tolist()
        ([[5, 6, 7], [8, 0, 0]], [[6, 7, 0], [0, -100, -100]])
    """
    import torch  # only who trains has to have it

    if not batch:
        raise InputError("a batch needs at least one text", reason="empty_batch")
    length = max(map(len, batch))
    padded = np.full((len(batch), length + 1), pad_token_id, np.int64)
    targets = np.full((len(batch), length), ignore_index, np.int64)
    for place, item in enumerate(batch):
        padded[place, : len(item)] = item
        end = len(item)
        while end > 1 and item[end - 1] == pad_token_id:
            end -= 1  # the first end-of-text of those at its end
        end = max(end, 1)
        targets[place, :end] = padded[place, 1 : end + 1]
    cut = slice(allowed_max_length)
    inputs = torch.tensor(padded[:, :-1][:, cut], device=device)
    return inputs, torch.tensor(targets[:, cut], device=device)


@dataclass(frozen=True, slots=True)
class DataSplit:
    """Data in three parts."""

    train: list[Any]
    validation: list[Any]
    test: list[Any]


def split_data(
    data: Sequence[Any], *, train_portion: float = 0.85, test_portion: float = 0.1
) -> DataSplit:
    """Split data in order: first the training set, then the test set; the rest is for validation.

    Args:
        data: The entries.
        train_portion: Share of the training set.
        test_portion: Share of the test set.

    Raises:
        PolicyError: The shares are negative or more than 1 together.

    Example:
        >>> split = split_data(range(1100))
        >>> len(split.train), len(split.test), len(split.validation)
        (935, 110, 55)
    """
    if min(train_portion, test_portion) < 0 or train_portion + test_portion > 1:
        raise PolicyError(
            f"train_portion {train_portion} and test_portion {test_portion} have to be shares of 1"
        )
    train, test = int(len(data) * train_portion), int(len(data) * test_portion)
    return DataSplit(
        list(data[:train]), list(data[train + test :]), list(data[train : train + test])
    )
