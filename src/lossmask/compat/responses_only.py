"""Unsloth's ``train_on_responses_only``: labels for the datasets that a trainer already has.

Same arguments. What differs: markers are found in what the ids spell, whatever the tokenizer makes
of them next to other text; a row without a marker is an error that names it, instead of a row that
is masked and dropped; each response ends at the next marker of either kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lossmask.compat.marked_ids import MarkedIds
from lossmask.errors import InputError, PolicyError
from lossmask.example import IGNORE_INDEX

Batch = Mapping[str, Any]
Labelling = Callable[..., dict[str, Any]]


def train_on_responses_only(
    trainer: Any,
    instruction_part: str | None = None,
    response_part: str | None = None,
    force_match: bool = True,
    tokenizer: Any = None,
    return_function: bool = False,
    num_proc: int | None = None,
) -> Any:
    r"""Set the labels of a trainer's datasets: the responses, and -100 for all else.

    Labels that the rows already have are kept where they are responses. The trainer gets a collator
    that pads them, unless it packs or has one.

    Args:
        trainer: Has ``train_dataset`` and perhaps ``eval_dataset`` with ``input_ids``, and
            ``processing_class`` or ``tokenizer``. None with ``return_function``.
        instruction_part: What stands before a turn that is no response.
        response_part: What stands before a response.
        force_match: Whether white space around the parts has to match; if not, as much of it as is
            there belongs to the marker.
        tokenizer: Instead of the trainer's.
        return_function: Whether to return the function for ``datasets.map(batched=True)`` and leave
            the trainer alone.
        num_proc: Processes for ``datasets.map``.

    Returns:
        The trainer, or the function.

    Raises:
        PolicyError: A part is missing.
        InputError: A dataset is a list or has no ``input_ids``; a marker is absent from a row, or
            nothing follows it.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> from lossmask.encoder import load_tokenizer
        >>> tokenizer = load_tokenizer(DEMO_MODEL)
        >>> label = train_on_responses_only(
        ...     None, "Q:", "A:", tokenizer=tokenizer, return_function=True)
        >>> labels = label({"input_ids": [tokenizer("Q: ok? A: no")["input_ids"]]})["labels"]
        >>> tokenizer.decode([label for label in labels[0] if label != -100])
        ' no'
    """
    if tokenizer is None:
        tokenizer = getattr(trainer, "processing_class", None) or getattr(
            trainer, "tokenizer", None
        )
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    if tokenizer is None:
        raise PolicyError("neither a tokenizer nor a trainer that has one is given")
    instruction, response = _parts(instruction_part, response_part, tokenizer)
    marked = MarkedIds(
        tokenizer,
        _variants(response, force_match),
        _variants(instruction, force_match),
    )
    label = _labelling(marked)
    if return_function:
        return label
    _label_datasets(trainer, label, num_proc)
    _set_collator(trainer, tokenizer)
    return trainer


def _parts(
    instruction_part: str | None, response_part: str | None, tokenizer: Any
) -> tuple[str, str]:
    """Return the two markers, from the arguments or from where Unsloth keeps them."""
    known = [getattr(tokenizer, f"_unsloth_{side}_part", None) for side in ("input", "output")]
    given = [instruction_part, response_part]
    if all(known):
        if any(given):
            raise PolicyError(
                "the tokenizer already has an instruction part and a response part; give none"
            )
        given = known
    if not given[0] or not given[1]:
        raise PolicyError("instruction_part and response_part have to be given")
    return given[0], given[1]


def _variants(marker: str, force_match: bool) -> list[str]:
    """Return the ways in which a marker may stand in a text; the longest that fits counts."""
    core = marker.strip()
    if force_match or not core:
        return [marker]
    left, right = marker.split(core)
    return [
        left[start:] + core + right[:end]
        for start in range(len(left) + 1)
        for end in range(len(right) + 1)
    ]


def _labelling(marked: MarkedIds) -> Labelling:
    """Return the function that ``datasets.map`` calls with batches of rows."""

    def label(batch: Batch, indices: Sequence[int] | None = None) -> dict[str, Any]:
        rows = batch["input_ids"]
        numbers = range(len(rows)) if indices is None else indices
        masks, olds = batch.get("attention_mask"), batch.get("labels")
        labels = [
            _labels(
                marked,
                np.asarray(ids),
                None if masks is None else np.asarray(masks[place]),
                None if olds is None else np.asarray(olds[place]),
                f"row {numbers[place]}",
            )
            for place, ids in enumerate(rows)
        ]
        return {"labels": _like(rows, labels)}

    return label


def _like(rows: Any, labels: list[list[int]]) -> Any:
    """Return labels as a tensor if the ids are one."""
    if isinstance(rows, np.ndarray):
        return np.array(labels, np.int64)
    if hasattr(rows, "new_tensor"):
        return rows.new_tensor(labels)
    return labels


def _labels(marked: MarkedIds, ids: Any, mask: Any, old: Any, row: str) -> list[int]:
    """Return the labels of one row, -100 at its padding."""
    real = np.arange(len(ids)) if mask is None else np.flatnonzero(mask)
    source = ids if old is None else old
    if len(source) != len(ids):
        raise InputError(f"{row} has {len(ids)} input_ids and {len(source)} labels")
    labels = np.full(len(ids), IGNORE_INDEX)
    kept = real[marked.responses(ids[real], row)]
    labels[kept] = source[kept]
    return [int(each) for each in labels]


def _label_datasets(trainer: Any, label: Labelling, num_proc: int | None) -> None:
    for name in ("train_dataset", "eval_dataset"):
        dataset = getattr(trainer, name, None)
        if isinstance(dataset, dict):  # several evaluation sets
            labelled: Any = {
                key: _labelled(each, f"{name}[{key!r}]", label, num_proc)
                for key, each in dataset.items()
            }
        elif dataset is not None:
            labelled = _labelled(dataset, name, label, num_proc)
        else:
            continue
        setattr(trainer, name, labelled)


def _labelled(dataset: Any, name: str, label: Labelling, num_proc: int | None) -> Any:
    if not hasattr(dataset, "map"):
        raise InputError(f"{name} is a {type(dataset).__name__}; expected a dataset with map()")
    columns: Iterable[str] | None = dataset.column_names
    if columns is None:  # streamed: only a row tells
        columns = next(iter(dataset), {"input_ids": None})
    if "input_ids" not in columns:
        raise InputError(
            f"{name} has no column 'input_ids', only {sorted(columns)}; tokenize it first",
            reason="missing_key",
        )
    options = {} if num_proc is None or not hasattr(dataset, "__len__") else {"num_proc": num_proc}
    return dataset.map(label, batched=True, with_indices=True, **options)


def _set_collator(trainer: Any, tokenizer: Any) -> None:
    """Give the trainer a collator that pads labels instead of making them anew."""
    from transformers import DataCollatorForSeq2Seq

    is_packing = getattr(getattr(trainer, "args", None), "packing", False)
    collator = getattr(trainer, "data_collator", None)
    if collator is None or is_packing or isinstance(collator, DataCollatorForSeq2Seq):
        return
    trainer.data_collator = DataCollatorForSeq2Seq(tokenizer=tokenizer)
