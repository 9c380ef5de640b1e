r"""A ``LightningModule`` whose loss is on what the model has to generate, weights included.

``pip install pytorch-lightning``; with the package ``lightning`` it is ``import lightning as L``.
Lightning divides the loss of each micro-batch by ``accumulate_grad_batches``, which is the mean of
means, not the loss of the whole batch: ``pytorch_loop.py`` shows how the latter is accumulated.
"""

import json
import warnings

import pytorch_lightning as L
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from lossmask import Encoder, Policy
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.supervised_loss import supervised_loss

Batch = dict[str, torch.Tensor]


class FineTuning(L.LightningModule):
    """A causal language model, trained on batches of ``PaddedCollator``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
        self.given: list[tuple[Batch, float]] = []

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Return the loss of a batch."""
        loss = supervised_loss(self.model, batch)
        self.given.append((batch, loss.item()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(name: str, policy: Policy) -> None:
    """Train for an epoch, and hold its batches and first loss against the model's own."""
    encoder = Encoder.from_pretrained(DEMO_MODEL, policy)
    eos = encoder.tokenizer.eos_token_id
    lines = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[:40]
    rows = Dataset.from_list([json.loads(line) for line in lines])
    examples = rows.map(encoder.map_batch, batched=True, remove_columns=rows.column_names)
    module = FineTuning()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    collate = PaddedCollator(pad_token_id=eos)  # pad = eos: the classic hazard
    trainer.fit(module, DataLoader(examples, batch_size=8, collate_fn=collate))
    losses = [loss for _, loss in module.given]
    ends = sum(int((batch["labels"] == eos).sum()) for batch, _ in module.given)
    inputs = {key: module.given[0][0][key] for key in ("input_ids", "attention_mask", "labels")}
    own = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)(**inputs).loss.item()
    print(f"{name}: {ends} ends of turn in the loss, {losses[0]:.2f} -> {losses[-1]:.2f}")
    print(f"the model's own loss, which knows no weights, of the first batch: {own:.2f}")
    assert (abs(losses[0] - own) < 1e-5) == (not policy.weights)


warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
train("every weight 1", Policy())
train("stop tokens weigh 0.25", Policy(weights={"stop": 0.25}))
