r"""``transformers.Trainer`` on a mapped data set: what it does with labels, and with weights.

The collator has to pad labels by position: ours does, and so does ``DataCollatorForSeq2Seq``. Not
``DataCollatorForLanguageModeling``: it writes its own labels over those of the data. The trainer
knows no weights, every token with a label weighs 1; ``LossmaskTrainer`` is the same trainer with
them.
"""

import json
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from lossmask import Encoder, Policy
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.supervised_loss import supervised_loss
from lossmask.trainer import LossmaskTrainer

encoder = Encoder.from_pretrained(DEMO_MODEL)
tokenizer = encoder.tokenizer
tokenizer.pad_token = tokenizer.eos_token  # the classic hazard
collate = PaddedCollator(tokenizer.eos_token_id)
lines = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[:40]
rows = Dataset.from_list([json.loads(line) for line in lines])
settings = TrainingArguments(
    tempfile.mkdtemp(), per_device_train_batch_size=8, num_train_epochs=1, learning_rate=1e-3,
    use_cpu=True, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
)  # fmt: skip


def train(name: str, kind: type[Trainer], collator, examples: Dataset, all_weigh_one=False) -> None:
    """Train for an epoch, and hold what the model was given against the examples."""
    model, given = AutoModelForCausalLM.from_pretrained(DEMO_MODEL), []
    trainer = kind(model, settings, train_dataset=examples, data_collator=collator)
    model.register_forward_pre_hook(lambda _, args, batch: given.append(batch), with_kwargs=True)
    trainer.train()
    ours, expected = {tuple(example["input_ids"]): example for example in examples}, []
    for batch in given:
        sizes = batch["attention_mask"].sum(dim=1)
        fed = [tuple(ids[:n].tolist()) for ids, n in zip(batch["input_ids"], sizes, strict=True)]
        expected.append(collate([ours.pop(ids) for ids in fed]))
        labels = batch.get("labels", expected[-1]["labels"])  # LossmaskTrainer's model needs none
        assert torch.equal(labels, expected[-1]["labels"])
    assert not ours  # each row was fed, once
    if all_weigh_one:
        expected[0]["loss_weights"] = (expected[0]["labels"] != -100).float()
    untrained = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert abs(losses[0] - supervised_loss(untrained, expected[0]).item()) < 1e-5
    ends = sum(int((batch["labels"] == tokenizer.eos_token_id).sum()) for batch in expected)
    print(f"{name}: {ends} ends of turn in the loss, {losses[0]:.2f} -> {losses[-1]:.2f}")


examples = rows.map(encoder.map_batch, batched=True, remove_columns=rows.column_names)
train("our collator", Trainer, collate, examples)
train("collator of transformers", Trainer, DataCollatorForSeq2Seq(tokenizer), examples)
weighted = Encoder(tokenizer, Policy(weights={"stop": 0.25}))
examples = rows.map(weighted.map_batch, batched=True, remove_columns=rows.column_names)
train("stop tokens weigh 0.25, not seen", Trainer, collate, examples, all_weigh_one=True)
train("stop tokens weigh 0.25, seen", LossmaskTrainer, collate, examples)
