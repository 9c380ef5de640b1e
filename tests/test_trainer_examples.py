"""Other people's trainers give the model exactly our labels, and where they would not."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from lossmask import Encoder
from lossmask.collate import PaddedCollator
from lossmask.data_files import read_rows
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL

EXAMPLES = Path(__file__).parents[1] / "examples"

FIGURES = {
    "axolotl_pretokenized": r"""base_model: \S+
datasets:
  - path: \S+rows.jsonl
    ds_type: json
    type:
sequence_len: 229
excess_length_strategy: raise
special_tokens:
  pad_token: <\|im_end\|>  # the classic hazard: no harm, the labels are not made from it

320 rows of at most 229 tokens, 403 ends of turn in the loss
""",
    "lightning_module": r"""every weight 1: 48 ends of turn in the loss, 10.99 -> [23]\.\d\d
the model's own loss, which knows no weights, of the first batch: 10.99
stop tokens weigh 0.25: 48 ends of turn in the loss, 11.04 -> [23]\.\d\d
the model's own loss, which knows no weights, of the first batch: 10.99
""",
    "pytorch_loop": r"""loss: the model's own 10.988, ours 10.988, in micro-batches 10.988
mean of the means of the micro-batches: 10.964
40 examples, 48 ends of turn in the loss
training: 1\d\.\d\d -> [2-5]\.\d\d
""",
    "transformers_trainer": r"""our collator: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
collator of transformers: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
stop tokens weigh 0.25, not seen: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
stop tokens weigh 0.25, seen: 48 ends of turn in the loss, 11.13 -> [34]\.\d\d
""",
    "trl_sft_trainer": r"""mapped, TRL's collator: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
mapped, our collator: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
prepared folder: 48 ends of turn in the loss, 10.91 -> [34]\.\d\d
""",
}
NEEDS = {"lightning_module": "pytorch_lightning", "trl_sft_trainer": "trl"}


@pytest.mark.parametrize("name", FIGURES)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 70


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_an_example_runs_and_prints_its_figures(name: str, tmp_path: Path) -> None:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    # two processes with two threads each wait for one another on two cores: seconds become minutes
    one_thread = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-X", "utf8", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
        env={**os.environ, **one_thread, "HF_DATASETS_CACHE": str(tmp_path / "datasets")},
    )
    assert run.returncode == 0, run.stderr
    own = re.sub(r"(?m)^\{.*\}\n", "", run.stdout)  # a trainer prints its log as dictionaries
    assert re.fullmatch(FIGURES[name], own), own


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    encoder.tokenizer.pad_token = encoder.tokenizer.eos_token
    return encoder


@pytest.fixture(scope="module")
def conversations() -> list[dict[str, Any]]:
    rows = (row.parse() for row in read_rows([DEMO_CONVERSATIONS]))
    return [{"messages": row["messages"]} for row in islice(rows, 6)]


@pytest.fixture(scope="module")
def examples(encoder: Encoder, conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [encoder.encode(each["messages"]) for each in conversations]
    return [
        {"input_ids": each.input_ids.tolist(), "labels": each.labels.tolist()} for [each] in rows
    ]


def test_the_collator_of_transformers_pads_labels_by_position(
    encoder: Encoder, examples: list[dict[str, Any]]
) -> None:
    theirs = DataCollatorForSeq2Seq(encoder.tokenizer)([dict(each) for each in examples])
    ours = PaddedCollator(encoder.tokenizer.eos_token_id)(examples)
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(theirs[key], ours[key])


def test_the_collator_for_language_modeling_writes_its_own_labels(
    encoder: Encoder, examples: list[dict[str, Any]]
) -> None:
    collate = DataCollatorForLanguageModeling(encoder.tokenizer, mlm=False)
    [short, *_] = sorted(examples, key=lambda each: len(each["input_ids"]))
    labels = collate([{"input_ids": short["input_ids"]}])["labels"][0].tolist()
    eos = encoder.tokenizer.eos_token_id
    assert eos in short["labels"]
    assert labels == [-100 if token == eos else token for token in short["input_ids"]]


def given_to(model: Any) -> list[dict[str, Any]]:
    """Return a list that will hold what the model is called with."""
    given: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda _, args, batch: given.append(batch), with_kwargs=True)
    return given


def rows_of(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of batches without their padding, whose labels have to be -100."""
    rows = []
    for batch in batches:
        sizes = batch["attention_mask"].sum(dim=1).tolist()
        assert not bool((batch["labels"][batch["attention_mask"] == 0] != -100).any())
        rows += [
            {"input_ids": ids[:size].tolist(), "labels": labels[:size].tolist()}
            for ids, labels, size in zip(batch["input_ids"], batch["labels"], sizes, strict=True)
        ]
    return rows


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_mapped_data_set_reaches_the_model_through_transformers(
    encoder: Encoder,
    conversations: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    as_stream: bool,
    tmp_path: Path,
) -> None:
    dataset: Any = datasets.Dataset.from_list(conversations)
    dataset = dataset.to_iterable_dataset() if as_stream else dataset
    dataset = dataset.map(encoder.map_batch, batched=True, remove_columns=["messages"])
    settings = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=3,
        max_steps=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    given = given_to(model)
    collate = PaddedCollator(encoder.tokenizer.eos_token_id)
    Trainer(model, settings, train_dataset=dataset, data_collator=collate).train()
    by_ids = sorted(rows_of(given), key=lambda row: row["input_ids"])
    assert by_ids == sorted(examples, key=lambda row: row["input_ids"])


def through_trl(
    folder: Path, dataset: Any, encoder: Encoder, formatting: Any = None, **options: Any
) -> list[dict[str, Any]]:
    """Train a step with TRL, and return the rows that the model was given, sorted."""
    trl = pytest.importorskip("trl", reason="trl is not installed")
    settings = trl.SFTConfig(
        str(folder),
        per_device_train_batch_size=6,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    given = given_to(model)
    trl.SFTTrainer(
        model,
        settings,
        train_dataset=dataset,
        processing_class=encoder.tokenizer,
        formatting_func=formatting,
    ).train()
    return sorted(rows_of(given), key=lambda row: row["input_ids"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("as_stream", [False, True])
def test_trl_cuts_rows_and_leaves_rows_out_unless_told_not_to(
    encoder: Encoder, examples: list[dict[str, Any]], as_stream: bool, tmp_path: Path
) -> None:
    dataset: Any = datasets.Dataset.from_list(examples)
    dataset = dataset.to_iterable_dataset() if as_stream else dataset
    whole = sorted(examples, key=lambda row: row["input_ids"])
    assert through_trl(tmp_path, dataset, encoder, max_length=None) == whole
    unprepared = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": 120}
    assert through_trl(tmp_path, dataset, encoder, **unprepared) == whole
    cut = [{name: ids[:120] for name, ids in row.items()} for row in whole]
    left = [row for row in cut if set(row["labels"]) != {-100}]
    assert 0 < len(left) < len(cut)
    assert through_trl(tmp_path, dataset, encoder, max_length=120) == left


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_trains_all_of_the_text_that_a_formatting_function_returns(
    encoder: Encoder,
    conversations: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    dataset = datasets.Dataset.from_list([{"chat": each["messages"]} for each in conversations])

    def formatting(row: dict[str, Any]) -> str:
        [example] = encoder.encode(row["chat"])
        return example.text

    eos = encoder.tokenizer.eos_token_id
    expected = [[*row["input_ids"], eos] for row in examples]  # "<|im_end|>\n" does not end in eos
    rows = through_trl(tmp_path, dataset, encoder, formatting, max_length=None)
    assert rows == [{"input_ids": ids, "labels": ids} for ids in sorted(expected)]
