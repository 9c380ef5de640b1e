r"""``SFTTrainer`` of TRL: on a data set mapped in memory, and on a prepared folder.

TRL trains rows that have ``input_ids`` and ``labels`` as they are. Know of it (TRL 1.16) that

* ``max_length`` is 1024 unless given: longer rows are cut, and left out where no label remains.
  None switches that off, ``skip_prepare_dataset`` all of the preparation;
* ``formatting_func=`` returns text, all of which is trained: map the rows to examples instead;
* it knows no weights: every token with a label weighs 1, so other weights are refused here.
"""

import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from lossmask import Encoder
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.preparing import EncoderSource, prepare
from lossmask.supervised_loss import supervised_loss

encoder = Encoder.from_pretrained(DEMO_MODEL)
tokenizer = encoder.tokenizer
tokenizer.pad_token = tokenizer.eos_token  # the classic hazard
collate = PaddedCollator(tokenizer.eos_token_id)


def train(name: str, examples: Dataset, folder: Path, collator=None, **options) -> None:
    """Train for an epoch, and hold what the model was given against the examples."""
    assert all(set(weights) <= {0, 1} for weights in examples["loss_weights"])
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    options |= {"per_device_train_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1}
    settings = SFTConfig(str(folder), learning_rate=1e-3, **options)
    model, given = AutoModelForCausalLM.from_pretrained(DEMO_MODEL), []
    model.register_forward_pre_hook(lambda _, args, batch: given.append(batch), with_kwargs=True)
    trainer = SFTTrainer(
        model, settings, collator, train_dataset=examples, processing_class=tokenizer
    )
    trainer.train()
    ours, expected = {tuple(example["input_ids"]): example for example in examples}, []
    for batch in given:
        sizes = batch["attention_mask"].sum(dim=1)
        fed = [tuple(ids[:n].tolist()) for ids, n in zip(batch["input_ids"], sizes, strict=True)]
        expected.append(collate([ours.pop(ids) for ids in fed]))
        assert all(torch.equal(batch[key], expected[-1][key]) for key in ("input_ids", "labels"))
    assert not ours  # each row was fed, once
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    untrained = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    assert abs(losses[0] - supervised_loss(untrained, expected[0]).item()) < 1e-5
    ends = sum(int((batch["labels"] == tokenizer.eos_token_id).sum()) for batch in given)
    print(f"{name}: {ends} ends of turn in the loss, {losses[0]:.2f} -> {losses[-1]:.2f}")


if __name__ == "__main__":  # `prepare` starts processes
    folder = Path(tempfile.mkdtemp())
    prepare([DEMO_CONVERSATIONS], EncoderSource(str(DEMO_MODEL)), folder / "prepared")
    shards = sorted(folder.glob("prepared/*.parquet"))
    prepared = Dataset.from_parquet([str(shard) for shard in shards])
    lines = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[:40]
    rows = Dataset.from_list([json.loads(line) for line in lines])
    mapped = rows.map(encoder.map_batch, batched=True, remove_columns=rows.column_names)
    train("mapped, TRL's collator", mapped, folder, max_length=None)
    train("mapped, our collator", mapped, folder, collate, max_length=None)
    unprepared = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    train("prepared folder", prepared.select(range(40)), folder, **unprepared)
