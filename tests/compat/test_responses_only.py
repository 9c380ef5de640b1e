"""The datasets of a trainer get labels: the responses, exactly."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from lossmask import InputError, PolicyError
from lossmask.compat import train_on_responses_only
from lossmask.embedded import DEMO_MODEL

USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
TEXTS = [
    f"{USER}Hi<|im_end|>\n{ASSISTANT}Hello<|im_end|>\n",
    f"{USER}a<|im_end|>\n{ASSISTANT}b<|im_end|>\n{ASSISTANT}c<|im_end|>\n{USER}d<|im_end|>\n",
]
ANSWERS = ["Hello<|im_end|>\n", "b<|im_end|>\nc<|im_end|>\n"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def dataset(tokenizer: PreTrainedTokenizerBase, texts: list[str] = TEXTS) -> Any:
    return Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in texts])


def trainer(tokenizer: PreTrainedTokenizerBase, **attributes: Any) -> Any:
    return SimpleNamespace(
        processing_class=tokenizer, args=SimpleNamespace(packing=False), **attributes
    )


def answers(tokenizer: PreTrainedTokenizerBase, labelled: Any) -> list[str]:
    for row in labelled:
        pairs = zip(row["labels"], row["input_ids"], strict=True)
        assert all(label in (-100, token) for label, token in pairs)
    return [tokenizer.decode([k for k in row["labels"] if k != -100]) for row in labelled]


def test_all_datasets_of_the_trainer_are_labelled(tokenizer: PreTrainedTokenizerBase) -> None:
    several = {"one": dataset(tokenizer, TEXTS[:1]), "two": dataset(tokenizer)}
    mine = trainer(tokenizer, train_dataset=dataset(tokenizer), eval_dataset=several)
    assert train_on_responses_only(mine, USER, ASSISTANT) is mine
    assert answers(tokenizer, mine.train_dataset) == ANSWERS
    assert answers(tokenizer, mine.eval_dataset["one"]) == ANSWERS[:1]
    assert answers(tokenizer, mine.eval_dataset["two"]) == ANSWERS


def test_streamed_rows_and_no_evaluation(tokenizer: PreTrainedTokenizerBase) -> None:
    streamed = dataset(tokenizer).to_iterable_dataset()
    mine = trainer(tokenizer, train_dataset=streamed, eval_dataset=None)
    train_on_responses_only(mine, USER, ASSISTANT, num_proc=2)
    assert answers(tokenizer, mine.train_dataset) == ANSWERS
    assert mine.eval_dataset is None


def test_the_collator_is_one_that_keeps_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    mine = trainer(tokenizer, train_dataset=dataset(tokenizer), data_collator=collator)
    train_on_responses_only(mine, USER, ASSISTANT)
    assert isinstance(mine.data_collator, DataCollatorForSeq2Seq)
    batch = mine.data_collator([mine.train_dataset[k] for k in range(2)])
    assert batch["labels"].shape == batch["input_ids"].shape
    kept = batch["labels"][0][batch["labels"][0] != -100]
    assert tokenizer.decode(kept) == ANSWERS[0]
    packing = trainer(tokenizer, train_dataset=dataset(tokenizer), data_collator=collator)
    packing.args.packing = True
    train_on_responses_only(packing, USER, ASSISTANT)
    assert packing.data_collator is collator


def test_the_function_labels_lists_and_tensors(tokenizer: PreTrainedTokenizerBase) -> None:
    label = train_on_responses_only(None, USER, ASSISTANT, True, tokenizer, True)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    labels = label({"input_ids": rows})["labels"]
    assert [tokenizer.decode([k for k in row if k != -100]) for row in labels] == ANSWERS
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    tensor = label(padded)["labels"]
    assert isinstance(tensor, torch.Tensor)
    assert tensor[0].tolist()[: len(rows[0])] == labels[0]
    assert (tensor[0][len(rows[0]) :] == -100).all()
    array = label({key: value.numpy() for key, value in padded.items()})["labels"]
    assert isinstance(array, np.ndarray)
    assert array.tolist() == tensor.tolist()


def test_labels_that_are_there_are_kept_in_the_responses(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    label = train_on_responses_only(None, USER, ASSISTANT, True, tokenizer, True)
    ids = tokenizer(TEXTS[0])["input_ids"]
    old = [-100 if token == 2 else token for token in ids]
    [labels] = label({"input_ids": [ids], "labels": [old]})["labels"]
    assert tokenizer.decode([k for k in labels if k != -100]) == "Hello\n"
    with pytest.raises(InputError, match="row 0 has 12 input_ids and 3 labels"):
        label({"input_ids": [ids[:12]], "labels": [old[:3]]})


@pytest.mark.parametrize(
    ("force_match", "text", "answer"),
    [
        (True, "\n### Q:\nx\n\n### A:\n yes", " yes"),
        (False, "\n### Q:\nx\n\n### A:\n yes", " yes"),
        (False, "### Q: x ### A: yes\n### Q: z", " yes"),
        (False, "### Q: x ### A:\n\nyes", "\nyes"),
    ],
)
def test_white_space_around_the_parts(
    tokenizer: PreTrainedTokenizerBase, force_match: bool, text: str, answer: str
) -> None:
    label = train_on_responses_only(
        None, "\n### Q:\n", "\n### A:\n", force_match, tokenizer, return_function=True
    )
    [labels] = label({"input_ids": [tokenizer(text)["input_ids"]]})["labels"]
    assert tokenizer.decode([k for k in labels if k != -100]) == answer
    if not force_match and text.startswith("#"):
        strict = train_on_responses_only(
            None, "\n### Q:\n", "\n### A:\n", True, tokenizer, return_function=True
        )
        with pytest.raises(InputError, match="marker"):
            strict({"input_ids": [tokenizer(text)["input_ids"]]})


def test_an_absent_marker_names_the_row(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = dataset(tokenizer, [*TEXTS, f"{USER}Hi<|im_end|>\n"])
    mine = trainer(tokenizer, train_dataset=rows)
    with pytest.raises(InputError, match=re.escape("assistant\\n' is not in row 2, which begins")):
        train_on_responses_only(mine, USER, ASSISTANT)
    assert mine.train_dataset is rows


def test_the_parts_that_unsloth_keeps_with_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    knowing = copy.deepcopy(tokenizer)
    knowing._unsloth_input_part, knowing._unsloth_output_part = USER, ASSISTANT
    processor = SimpleNamespace(tokenizer=knowing)
    mine = SimpleNamespace(tokenizer=processor, train_dataset=dataset(tokenizer))
    train_on_responses_only(mine)
    assert answers(tokenizer, mine.train_dataset) == ANSWERS
    with pytest.raises(PolicyError, match="already has an instruction part"):
        train_on_responses_only(mine, USER, ASSISTANT)


@pytest.mark.parametrize("parts", [(None, None), (USER, None), (None, ASSISTANT), (USER, "")])
def test_both_parts_have_to_be_given(tokenizer: PreTrainedTokenizerBase, parts: Any) -> None:
    with pytest.raises(PolicyError, match="instruction_part and response_part have to be given"):
        train_on_responses_only(trainer(tokenizer), *parts)


def test_what_cannot_be_labelled_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(PolicyError, match="neither a tokenizer nor a trainer"):
        train_on_responses_only(None, USER, ASSISTANT)
    with pytest.raises(InputError, match="train_dataset is a list"):
        train_on_responses_only(trainer(tokenizer, train_dataset=[{}]), USER, ASSISTANT)
    texts = Dataset.from_list([{"text": "Hi"}])
    with pytest.raises(InputError, match=re.escape("no column 'input_ids', only ['text']")):
        train_on_responses_only(trainer(tokenizer, train_dataset=texts), USER, ASSISTANT)


@pytest.mark.slow
def test_a_real_trainer_trains_the_responses(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    seen: list[Any] = []
    model.register_forward_pre_hook(
        lambda _, arguments, keywords: seen.append(keywords["labels"].clone()), with_kwargs=True
    )
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    mine = Trainer(
        model,
        arguments,
        train_dataset=dataset(tokenizer),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    train_on_responses_only(mine, USER, ASSISTANT).train()
    [labels] = seen
    trained = [tokenizer.decode([k for k in row if k != -100]) for row in labels.tolist()]
    assert sorted(trained) == sorted(ANSWERS)
