"""`transformers.Trainer` with the weighted loss over supervised tokens: batches in, updates out.

The loss of one update is ``sum(w * nll) / sum(w)`` over *all* supervised tokens of its global
batch: every micro-batch of the gradient accumulation, on every process. How examples are batched
therefore changes nothing. Evaluation is the same quotient over the whole evaluation set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from lossmask.collate import PaddedCollator
from lossmask.errors import LossmaskError, PolicyError, PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.isolation import check_isolation
from lossmask.padding_free import PaddingFreeCollator
from lossmask.supervised_loss import (
    Batch,
    TokenLosses,
    head_gives_logits,
    supervised_token_losses,
    supervised_weight,
)

__all__ = ["LossmaskTrainer"]

_UNSUPPORTED = {
    "label_smoothing_factor": "the loss is the exact weighted cross-entropy",
    "bf16_full_eval": "evaluation uses the model as it is trained; use bf16",
    "fp16_full_eval": "evaluation uses the model as it is trained; use fp16",
    "use_liger_kernel": "it would replace the loss; the LM head already runs in chunks",
    "torch_compile": "the number of supervised tokens differs in every batch",
    "parallelism_config": "the loss needs whole sequences on each process",
}
"""Fields whose effect would be lost or wrong here, with the reason."""

_OWN_COLLATORS = (PaddedCollator, PaddingFreeCollator)

_SUMS = ("loss", "weight", "supervised", "correct", "stops", "correct_stops", "tokens")
"""What evaluation adds up, in this order."""


class LossmaskTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """``transformers.Trainer`` with the weighted loss over supervised tokens.

    Args:
        model: A causal language model, or a PEFT model around one.
        args: Training arguments.
        train_dataset: Items as `Examples` describes.
        eval_dataset: The same; or a mapping of names to them.
        data_collator: Defaults to a `PaddedCollator`. With a `PaddingFreeCollator`, the model is
            first asked whether it keeps documents apart; evaluation pads.
        callbacks: Added to those of transformers.
        stop_ids: Token ids at which inference ends a turn; evaluation reports their accuracy apart.

    Raises:
        PolicyError: The arguments ask for what this loss does not do, or for single-process
            multi-GPU; or documents of one row would see each other.
    """

    loss_is_scaled_for_ga = True
    model: nn.Module
    control: TrainerControl

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
        stop_ids: Collection[int] = (),
    ) -> None:
        _refuse_unsupported(args)
        self._collator = data_collator or PaddedCollator(pad_token_id=0)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_LogLastStep(), _DrawIgnored(self._collator), *callbacks],
        )
        self.remove_callback(PrinterCallback)  # a library does not print
        self.stop_ids = sorted(set(stop_ids))
        self.tokens = 0
        self.supervised_tokens = 0
        # Sharded weights are whole in the model's own forward only; chunks are recomputed after it.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self.chunk_head = not sharded and head_gives_logits(model)
        if isinstance(self._collator, PaddingFreeCollator) and self.accelerator.is_main_process:
            with self.accelerator.autocast():
                check_isolation(model, self._collator)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep ``loss_weights``, which no model's ``forward`` takes, among the columns."""
        self._signature_columns = ["input_ids", "labels", "loss_weights", "ignorable", "index"]

    def _get_collator_with_removed_columns(
        self, data_collator: Any, description: str | None = None
    ) -> Any:
        """Leave our collators alone: they take what they know, and a batch as the data gives it."""
        if isinstance(data_collator, _OWN_COLLATORS):
            return data_collator
        return super()._get_collator_with_removed_columns(data_collator, description)

    def get_eval_dataloader(self, *arguments: Any, **options: Any) -> DataLoader[Any]:
        """Evaluate over all supervised tokens, those that training ignores included."""
        self.data_collator = _evaluating(self._collator)
        try:
            loader: DataLoader[Any] = super().get_eval_dataloader(*arguments, **options)
        finally:
            self.data_collator = self._collator
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """Take the batches of one update and the weight of them all, over all processes.

        Args:
            epoch_iterator: Batches of this process.
            num_batches: How many make an update.
            device: Where the weight is wanted.

        Returns:
            The batches, and a float32 scalar: the sum of the loss weights of the global batch. No
            batches and None once the run has made its last step.

        Raises:
            PreparedDataError: Nothing in the global batch is supervised.
        """
        # A finished run that is resumed in the middle of an epoch would make one step more.
        finished = self.state.global_step >= self.state.max_steps
        batches = [] if finished else list(itertools.islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        counts = torch.stack([_counts(batch) for batch in batches]).sum(dim=0).to(device)
        weight, supervised, tokens = self.accelerator.gather(counts[None]).sum(dim=0).unbind()
        if not float(weight) > 0:
            raise PreparedDataError(
                f"step {self.state.global_step + 1}: no token of the batch is supervised, so there "
                "is no loss. Leave examples without supervised tokens out of the training data.",
                reason="no_supervised_token",
            )
        self.tokens += int(tokens)
        self.supervised_tokens += int(supervised)
        return batches, weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute a micro-batch's part of the loss of the global batch.

        Args:
            model: The model, wrapped or not.
            inputs: As `PaddedCollator` makes it.
            return_outputs: Return the `TokenLosses` too.
            num_items_in_batch: Weight of the global batch; without it, of this micro-batch.

        Returns:
            A float32 scalar, or the scalar and the losses.
        """
        losses = self._token_losses(model, inputs)
        divisor = supervised_weight(inputs) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes, but the divisor already spans them.
        processes = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = losses.weighted_sum() * processes / divisor.to(losses.nll.device)
        return (loss, losses) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate over all supervised tokens, whatever the batch size and the number of processes.

        Args:
            dataloader: Batches of this process.
            description: Not used; part of the signature of transformers, as are the next two.
            prediction_loss_only: Not used.
            ignore_keys: Not used.
            metric_key_prefix: Prefix of the metrics.

        Returns:
            ``loss`` (nats per weighted token), ``token_accuracy`` and ``stop_accuracy`` (shares of
            1), ``supervised_tokens`` and ``supervised_share``; no predictions.
        """
        model = self._evaluation_model()
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        examples = 0
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with torch.no_grad():
                losses = self._token_losses(model, inputs)
            per_example = _example_sums(losses, inputs, self.stop_ids)
            # Processes whose last batch is short repeat examples to fill it; this drops the copies.
            gathered = self.accelerator.gather_for_metrics(per_example).cpu()
            sums += gathered.to(torch.float64).sum(dim=0)
            examples += len(gathered)
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in _metrics(sums).items()}
        return EvalLoopOutput(
            predictions=None, label_ids=None, metrics=metrics, num_samples=examples
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add token counts to a training log, and stop at a loss that is no number.

        Args:
            logs: What to log.
            start_time: When training began, in seconds.

        Raises:
            LossmaskError: The loss is NaN or infinite.
        """
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            raise LossmaskError(
                f"the loss is {loss} at step {self.state.global_step}: the model's weights are no "
                "longer usable. Lower the learning rate or the precision's risk (bf16 instead of "
                "fp16), and start from the last checkpoint before it.",
                reason="loss_not_finite",
            )
        if "loss" in logs:
            logs.update(tokens=self.tokens, supervised_tokens=self.supervised_tokens)
        super().log(logs, start_time)

    def _token_losses(self, model: nn.Module, inputs: Batch) -> TokenLosses:
        return supervised_token_losses(
            self.accelerator.unwrap_model(model), inputs, forward=model, chunk_head=self.chunk_head
        )

    def _evaluation_model(self) -> nn.Module:
        model: nn.Module = self._wrap_model(self.model, training=False)
        if self.accelerator._models or model is not self.model:
            return model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            self.model = self.model_wrapped = self.accelerator.prepare(model)
            return self.model
        prepared: nn.Module = self.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared


class _LogLastStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Log after the last step: losses not logged are missing those of the other processes."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


def _refuse_unsupported(args: TrainingArguments) -> None:
    for name, why in _UNSUPPORTED.items():
        if getattr(args, name, None):
            raise PolicyError(
                f"the training argument {name}={getattr(args, name)!r} does not work here: {why}. "
                "Leave it out."
            )
    if args.n_gpu > 1:
        raise PolicyError(
            f"this process sees {args.n_gpu} GPUs. Start one process per GPU with `torchrun "
            "--nproc-per-node` or `accelerate launch`, or show it one with CUDA_VISIBLE_DEVICES."
        )


class _DrawIgnored(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Tells the collator the epoch, by which it draws the tokens to ignore."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if isinstance(self._collator, _OWN_COLLATORS):
            self._collator.set_epoch(int(state.epoch or 0))


def _evaluating(collator: Any) -> Any:
    """Return the collator of evaluation: it ignores nothing, and has a row for each example."""
    if isinstance(collator, PaddingFreeCollator):
        return PaddedCollator(pad_token_id=collator.pad_token_id or 0)
    if isinstance(collator, PaddedCollator):
        return dataclasses.replace(collator, ignore=None)
    return collator


def _counts(batch: Batch) -> Tensor:
    """Return (3,) float32: weight, supervised tokens, tokens without padding."""
    supervised = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
    tokens = batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()
    return torch.stack([supervised_weight(batch), supervised.float(), tokens.float()])


def _example_sums(losses: TokenLosses, batch: Batch, stop_ids: Sequence[int]) -> Tensor:
    """Return (examples, 7) float32: for each example of a batch the sums that `_SUMS` names."""
    device = losses.nll.device
    stops = torch.isin(losses.labels, torch.tensor(stop_ids, dtype=torch.int64, device=device))
    per_token = torch.stack(
        [
            losses.nll * losses.weights,
            losses.weights.abs(),
            torch.ones_like(losses.nll),
            losses.correct.float(),
            stops.float(),
            (stops & losses.correct).float(),
        ],
        dim=1,
    )
    sums = torch.zeros(len(batch["labels"]), per_token.shape[1], device=device)
    sums.index_add_(0, losses.examples, per_token)
    mask = batch.get("attention_mask", torch.ones_like(batch["labels"]))
    return torch.cat([sums, mask.sum(dim=1, keepdim=True).to(device, torch.float32)], dim=1)


def _metrics(sums: Tensor) -> dict[str, float]:
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    if not total["weight"] > 0:
        raise PreparedDataError(
            "no token of the evaluation data is supervised, so there is no loss to report. "
            "Prepare it with the policy of the training data.",
            reason="no_supervised_token",
        )
    metrics = {
        "loss": total["loss"] / total["weight"],
        "token_accuracy": total["correct"] / total["supervised"],
        "supervised_tokens": int(total["supervised"]),
        "supervised_share": total["supervised"] / total["tokens"],
    }
    if total["stops"]:
        metrics["stop_accuracy"] = total["correct_stops"] / total["stops"]
    return metrics
