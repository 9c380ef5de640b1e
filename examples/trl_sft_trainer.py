r"""``SFTTrainer`` of TRL on a prepared folder, and on a data set mapped in memory.

TRL trains rows that have ``input_ids`` and ``labels`` as they are. Know of it (TRL 1.16) that

* ``max_length`` is 1024 unless given: longer rows are cut, and left out if no label remains. None
  and ``skip_prepare_dataset`` switch that off;
* ``formatting_func=`` returns text, all of which is trained: map the rows to examples instead;
* it knows no weights: every token with a label weighs 1, so other weights are refused here.
"""

import json
import tempfile
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from lossmask import Encoder
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.preparing import EncoderSource, prepare
from lossmask.supervised_loss import supervised_loss

EOS = 2


def train(name: str, examples: Dataset, collator: PaddedCollator | None, **options: object) -> None:
    """Train a few steps, and hold what the model is given against the examples."""
    assert all(set(weights) <= {0, 1} for weights in examples["loss_weights"])
    ours = {tuple(example["input_ids"]): example["labels"] for example in examples}
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    given = []
    model.register_forward_pre_hook(lambda _, args, batch: given.append(batch), with_kwargs=True)
    tokenizer = Encoder.from_pretrained(DEMO_MODEL).tokenizer
    tokenizer.pad_token = tokenizer.eos_token  # the classic hazard
    settings = SFTConfig(
        "unused", per_device_train_batch_size=8, max_steps=5, logging_steps=1, learning_rate=1e-3,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", **options,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, settings, collator, train_dataset=examples, processing_class=tokenizer
    )
    trainer.train()
    rows = ends = 0
    for batch in given:
        for ids, mask, labels in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            size = int(mask.sum())
            assert labels[:size].tolist() == ours[tuple(ids[:size].tolist())]
            assert set(labels[size:].tolist()) <= {-100}
            rows, ends = rows + 1, ends + int((labels == EOS).sum())
    first = {**given[0], "loss_weights": (given[0]["labels"] != -100).float()}
    fields = ("input_ids", "attention_mask", "labels", "loss_weights")
    fresh = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    expected = supervised_loss(fresh, {name: first[name] for name in fields}).item()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert abs(losses[0] - expected) < 1e-5
    print(f"{name}: {rows} rows, {ends} ends of turn in the loss, {losses[0]:.2f} ->", losses[-1])
