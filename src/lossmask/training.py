"""Train on prepared data: a folder (or examples in memory) and a model in, a fine-tuned model out.

The loss of one update is ``sum(w * nll) / sum(w)`` over *all* supervised tokens of its global
batch: every micro-batch of the gradient accumulation, on every process. How examples are batched
therefore changes nothing. Evaluation is the same quotient over the whole evaluation set.

Everything else (schedules, precision, FSDP, checkpoints, loggers) is ``transformers.Trainer``,
whose ``TrainingArguments`` are passed through.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput

from lossmask.collate import PaddedCollator
from lossmask.errors import InputError, LossmaskError, PolicyError, PreparedDataError
from lossmask.prepared import OUT_OF_LOSS, PreparedData, load_prepared
from lossmask.supervised_loss import (
    Batch,
    TokenLosses,
    head_gives_logits,
    supervised_token_losses,
    supervised_weight,
)

__all__ = ["Examples", "LoraSettings", "LossmaskTrainer", "TrainingResult", "train"]

logger = logging.getLogger(__name__)

RECORD_NAME = "lossmask_training.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Examples(Protocol):
    """A map-style data set: `PreparedData`, a torch ``Dataset``, a list.

    An item has ``input_ids`` and ``labels`` of shape (tokens,), and ``loss_weights`` of the same
    shape unless every supervised token weighs 1.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters (PEFT) instead of full fine-tuning."""

    rank: int = 16
    """Rank of each adapter."""
    alpha: int = 32
    """The adapter's output is scaled by ``alpha / rank``."""
    dropout: float = 0.0
    """Dropout on the input of each adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the modules to adapt, or ``all-linear`` for every linear layer but the LM head."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full next to the adapters, such as ``embed_tokens``."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise PolicyError(
                f"LoRA rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}: give a rank "
                "of 1 or "
                "more, a positive alpha and a dropout of at least 0 and below 1."
            )


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a call of `train` did."""

    output_dir: Path
    """Where the model (or adapter), its tokenizer and the checkpoints are."""
    steps: int
    """Optimizer steps of the run, those before a resume included."""
    train_loss: float | None
    """Mean loss of this call's steps, nats per weighted token; None if a resumed run was over."""
    metrics: Mapping[str, float]
    """Final evaluation (``eval_loss``, ``eval_token_accuracy``, ...); empty without data."""
    tokens: int
    """Tokens this call trained on, padding not counted."""
    supervised_tokens: int
    """How many of them were in the loss."""
    resumed_from: int
    """Step of the checkpoint that this call continued, 0 for a fresh start."""


class LossmaskTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """``transformers.Trainer`` with the weighted loss over supervised tokens.

    Args:
        model: A causal language model, or a PEFT model around one.
        args: Training arguments.
        train_dataset: Items as `Examples` describes.
        eval_dataset: The same; or a mapping of names to them.
        data_collator: Defaults to a `PaddedCollator`.
        callbacks: Added to those of transformers.
        stop_ids: Token ids at which inference ends a turn; evaluation reports their accuracy apart.

    Raises:
        PolicyError: The arguments ask for what this loss does not do, or for single-process
            multi-GPU.
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
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or PaddedCollator(pad_token_id=0),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # a library does not print
        self.stop_ids = sorted(set(stop_ids))
        self.tokens = 0
        self.supervised_tokens = 0
        # Sharded weights are whole only inside the model's own forward, not when chunks are
        # recomputed.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self.chunk_head = not sharded and head_gives_logits(model)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep ``loss_weights``, which no model's ``forward`` takes, among the columns."""
        self._signature_columns = ["input_ids", "labels", "loss_weights"]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """Take the batches of one update and the weight of them all, over all processes.

        Args:
            epoch_iterator: Batches of this process.
            num_batches: How many make an update.
            device: Where the weight is wanted.

        Returns:
            The batches, and a float32 scalar: the sum of the loss weights of the global batch.

        Raises:
            PreparedDataError: Nothing in the global batch is supervised.
        """
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        counts = torch.stack([_counts(batch) for batch in batches]).sum(dim=0).to(device)
        weight, supervised, tokens = self.accelerator.gather(counts[None]).sum(dim=0).unbind()
        if not float(weight) > 0:
            raise PreparedDataError(
                f"step {self.state.global_step + 1}: no token of the batch is supervised, so there "
                "is no "
                "loss. Leave examples without supervised tokens out of the training data.",
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
        # Distributed training averages gradients over the processes; the divisor already spans
        # them.
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
                "longer "
                "usable. Lower the learning rate or the precision's risk (bf16 instead of fp16), "
                "and "
                "start from the last checkpoint before it.",
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


def train(
    prepared: str | Path | Examples,
    model: str | Path | PreTrainedModel,
    output_dir: str | Path,
    *,
    eval_folder: str | Path | Examples | None = None,
    eval_share: float = 0.0,
    epochs: float = 3.0,
    max_steps: int | None = None,
    learning_rate: float | None = None,
    batch_size: int = 8,
    gradient_accumulation: int = 1,
    seed: int = 0,
    lora: LoraSettings | None = None,
    dtype: str | None = None,
    resume: bool = False,
    stop_ids: Collection[int] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
    training_arguments: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Fine-tune a model on prepared data and save it.

    Args:
        prepared: The folder that ``lossmask prepare`` wrote, or examples in memory.
        model: Path (or cached hub id) of a causal language model, or the model itself, which is
            then changed in place.
        output_dir: Gets the model, its tokenizer and the checkpoints. New or empty, unless
            ``resume``.
        eval_folder: Held-out examples, prepared or in memory.
        eval_share: Or the share of the training rows to hold out; all examples of a row stay
            together.
        epochs: Passes over the data. Not used if ``max_steps`` is given.
        max_steps: Optimizer steps.
        learning_rate: Peak; by default 2e-5, and 2e-4 with LoRA.
        batch_size: Examples per micro-batch and process.
        gradient_accumulation: Micro-batches per optimizer step.
        seed: Of the order of examples, the held-out rows, dropout and new weights.
        lora: Train adapters instead of the whole model.
        dtype: Type the weights are loaded in: a torch type's name, or ``auto`` for that of the
            checkpoint. By default ``auto`` under LoRA and ``float32`` else: small updates vanish in
            bfloat16 weights.
        resume: Continue the run in ``output_dir`` from its last whole checkpoint; with none, start
            it. The resulting weights are those of a run that was never interrupted.
        stop_ids: Tokens whose accuracy evaluation reports apart; by default those of the manifest.
        callbacks: Callbacks of transformers, such as a progress display.
        progress: Show the progress bar of transformers.
        training_arguments: Any other field of ``transformers.TrainingArguments``.

    Returns:
        What was done.

    Raises:
        InputError: The model cannot be loaded, or ``output_dir`` is in use.
        PolicyError: A setting is unknown or wrong, or differs from that of the run to resume.
        PreparedDataError: The data is not usable, or does not fit the model.
    """
    data = _open(prepared)
    train_data, eval_data = _hold_out(data, eval_folder, eval_share, seed)
    rate = learning_rate if learning_rate is not None else (2e-4 if lora else 2e-5)
    arguments = _arguments(
        {
            "output_dir": str(output_dir),
            "num_train_epochs": epochs,
            "max_steps": -1 if max_steps is None else max_steps,
            "learning_rate": rate,
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation,
            "seed": seed,
            "disable_tqdm": not progress,
        },
        training_arguments or {},
        evaluates=eval_data is not None,
    )
    set_seed(seed)
    network = _load_model(model, dtype or ("auto" if lora else "float32"))
    _check_fits(data, network)
    if eval_data is not None and not eval_share:
        _check_fits(eval_data, network)
    record = _record(arguments, data, len(train_data), network, lora)
    checkpoint = _claim_output(Path(output_dir), record, resume, arguments.process_index == 0)
    tokenizer = data.tokenizer if isinstance(data, PreparedData) else {}
    trainer = LossmaskTrainer(
        network if lora is None else _with_adapters(network, lora),
        arguments,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=PaddedCollator(pad_token_id=tokenizer.get("pad_token_id") or 0),
        callbacks=callbacks,
        stop_ids=tokenizer.get("stop_ids", ()) if stop_ids is None else stop_ids,
    )
    return _run(trainer, Path(output_dir), checkpoint, tokenizer.get("path"))


def _run(
    trainer: LossmaskTrainer, output_dir: Path, checkpoint: Path | None, tokenizer: str | None
) -> TrainingResult:
    outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = {} if trainer.eval_dataset is None else trainer.evaluate()
    trainer.save_model(str(output_dir))
    if trainer.args.should_save:
        trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
        _save_tokenizer(tokenizer, output_dir)
    start = 0 if checkpoint is None else _step(checkpoint)
    return TrainingResult(
        output_dir=output_dir,
        steps=trainer.state.global_step,
        train_loss=outcome.training_loss if trainer.state.global_step > start else None,
        metrics=metrics,
        tokens=trainer.tokens,
        supervised_tokens=trainer.supervised_tokens,
        resumed_from=start,
    )


def _counts(batch: Batch) -> Tensor:
    """Return (3,) float32: weight, supervised tokens, tokens without padding."""
    supervised = (batch["labels"][:, 1:] != OUT_OF_LOSS).sum()
    tokens = batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()
    return torch.stack([supervised_weight(batch), supervised.float(), tokens.float()])


_SUMS = ("loss", "weight", "supervised", "correct", "stops", "correct_stops", "tokens")


def _example_sums(losses: TokenLosses, batch: Batch, stop_ids: Sequence[int]) -> Tensor:
    """Return (examples, 7) float32: for each example of a batch the sums that `_SUMS` names."""
    device = losses.nll.device
    stops = torch.isin(losses.labels, torch.tensor(stop_ids, dtype=torch.int64, device=device))
    per_token = torch.stack(
        [
            losses.nll * losses.weights,
            losses.weights,
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
            "no token of the evaluation data is supervised, so there is no loss to report. Prepare "
            "it "
            "with the policy of the training data.",
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


def _open(source: str | Path | Examples) -> Examples:
    data = load_prepared(source) if isinstance(source, str | Path) else source
    if not len(data):
        where = data.folder if isinstance(data, PreparedData) else "the data given"
        raise PreparedDataError(f"{where} holds no example.", reason="no_examples")
    return data


def _hold_out(
    data: Examples, eval_folder: str | Path | Examples | None, eval_share: float, seed: int
) -> tuple[Examples, Examples | None]:
    """Return what to train on and what to evaluate on."""
    if not 0 <= eval_share < 1 or (eval_share and eval_folder is not None):
        raise PolicyError(
            f"eval_share is {eval_share} and eval_folder {eval_folder!r}: give a share of at least "
            "0 and "
            "below 1, or evaluation data, not both."
        )
    if not eval_share:
        return data, None if eval_folder is None else _open(eval_folder)
    # The examples of one row share their beginning: held out together, or evaluation sees training
    # text.
    groups = data.rows if isinstance(data, PreparedData) else np.arange(len(data))
    rows = np.random.default_rng(seed).permutation(np.unique(groups))
    count = max(1, round(eval_share * len(rows)))
    if count >= len(rows):
        raise PolicyError(
            f"eval_share={eval_share} of {len(rows)} rows leaves none to train on. Lower it, or "
            "prepare "
            "more data."
        )
    held_out = np.isin(groups, rows[:count])
    return _subset(data, ~held_out), _subset(data, held_out)


def _subset(data: Examples, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> Examples:
    part: Any = Subset(data, np.flatnonzero(keep).tolist())  # type: ignore[arg-type]
    chosen: Examples = part
    return chosen


_OWN_KEYWORDS = {
    "output_dir": "output_dir",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "seed": "seed",
    "disable_tqdm": "progress",
    "resume_from_checkpoint": "resume",
}
"""Fields of ``TrainingArguments`` that are keywords of `train`."""

_UNSUPPORTED = {
    "label_smoothing_factor": "the loss is the exact weighted cross-entropy",
    "bf16_full_eval": "evaluation uses the model as it is trained; use bf16",
    "fp16_full_eval": "evaluation uses the model as it is trained; use fp16",
    "use_liger_kernel": "it would replace the loss; the LM head already runs in chunks",
    "torch_compile": "the number of supervised tokens differs in every batch",
    "parallelism_config": "the loss needs whole sequences on each process",
}
"""Fields whose effect would be lost or wrong here, with the reason."""


def _arguments(
    own: Mapping[str, Any], extra: Mapping[str, Any], *, evaluates: bool
) -> TrainingArguments:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for key in extra:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise PolicyError(
                f"training_arguments has {key!r}, which is no field of "
                "transformers.TrainingArguments. "
                f"The nearest is {near!r}."
            )
        if key in _OWN_KEYWORDS:
            raise PolicyError(
                f"training_arguments has {key!r}: pass {_OWN_KEYWORDS[key]}= instead."
            )
    on_gpu = torch.cuda.is_available()
    defaults = {
        "bf16": on_gpu and torch.cuda.is_bf16_supported() and not extra.get("fp16", False),
        "dataloader_pin_memory": on_gpu,
        "eval_strategy": "epoch" if evaluates else "no",
        "logging_nan_inf_filter": False,
        "logging_steps": 10,
        "per_device_eval_batch_size": own["per_device_train_batch_size"],
        "report_to": "none",
        "save_total_limit": 2,
    }
    try:
        return TrainingArguments(**{**defaults, **own, **extra})
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"transformers.TrainingArguments refuses these settings: {error}"
        ) from error


def _refuse_unsupported(args: TrainingArguments) -> None:
    for name, why in _UNSUPPORTED.items():
        if getattr(args, name, None):
            raise PolicyError(
                f"the training argument {name}={getattr(args, name)!r} does not work here: {why}. "
                "Leave "
                "it out."
            )
    if args.n_gpu > 1:
        raise PolicyError(
            f"this process sees {args.n_gpu} GPUs. Start one process per GPU with `torchrun "
            "--nproc-per-node` or `accelerate launch`, or show it one with CUDA_VISIBLE_DEVICES."
        )


def _load_model(model: str | Path | PreTrainedModel, dtype: str) -> PreTrainedModel:
    if not isinstance(model, str | Path):
        return model
    if not Path(model).exists() and not HUB_ID.fullmatch(str(model)):
        raise InputError(
            f"there is no model at {model}. Give the folder of a saved model.",
            reason="missing_model",
        )
    try:
        return AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"the model {model} cannot be loaded: {error}. Expected a causal language model with "
            "its "
            "config.json and weights.",
            reason="unloadable_model",
        ) from error


def _with_adapters(model: PreTrainedModel, lora: LoraSettings) -> nn.Module:
    modules = lora.target_modules
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        modules_to_save=list(lora.modules_to_save) or None,
    )
    try:
        adapted: nn.Module = get_peft_model(model, settings)
    except ValueError as error:
        raise PolicyError(f"the LoRA settings do not fit the model: {error}") from error
    return adapted


def _check_fits(data: Examples, model: PreTrainedModel) -> None:
    """Check that every token has an embedding, and that every example has a loss."""
    size = model.get_input_embeddings().weight.shape[0]
    if isinstance(data, PreparedData):
        largest, where = data.largest_token()
    else:
        _check_supervised(data)
        ids = [int(np.max(np.asarray(data[index]["input_ids"]))) for index in range(len(data))]
        largest, where = max(ids), f"example {ids.index(max(ids))}"
    if largest >= size:
        raise PreparedDataError(
            f"{where}: token id {largest} has no embedding; the model has {size} (0 to "
            f"{size - 1}). The "
            "data was prepared with another tokenizer, or tokens were added: prepare it with the "
            "model's "
            "own, or resize the model's embeddings.",
            reason="token_outside_model",
        )


def _check_supervised(data: Examples) -> None:
    for index in range(len(data)):
        if not (np.asarray(data[index]["labels"])[1:] != OUT_OF_LOSS).any():
            raise PreparedDataError(
                f"example {index} has no token in the loss that could be predicted. Leave it out.",
                reason="no_supervised_token",
            )


_TRAJECTORY = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "data_seed",
    "fp16",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "neftune_noise_alpha",
    "num_train_epochs",
    "optim",
    "per_device_train_batch_size",
    "seed",
    "train_sampling_strategy",
    "warmup_steps",
    "weight_decay",
    "world_size",
)
"""Settings that decide the weights: a run can be resumed only under the same."""


def _record(
    arguments: TrainingArguments,
    data: Examples,
    examples: int,
    model: PreTrainedModel,
    lora: LoraSettings | None,
) -> dict[str, Any]:
    """Describe a run, as JSON values, by what decides its weights (of the model, only its size)."""
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in _TRAJECTORY}
    settings["examples"] = examples
    settings["dtype"] = str(next(model.parameters()).dtype)
    settings["parameters"] = sum(values.numel() for values in model.parameters())
    settings["lora"] = None if lora is None else dataclasses.asdict(lora)
    if isinstance(data, PreparedData):
        text = json.dumps(data.manifest, sort_keys=True)
        settings["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    record: dict[str, Any] = json.loads(json.dumps(settings))
    return record


def _claim_output(
    output_dir: Path, record: Mapping[str, Any], resume: bool, is_first_process: bool
) -> Path | None:
    """Start or reopen an output folder.

    Returns:
        The last whole checkpoint to continue from, or None to start from the beginning.
    """
    in_use = output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir()))
    if is_first_process and in_use and not resume:
        raise InputError(
            f"{output_dir} is not an empty folder. Give another one, or resume the run that is in "
            "it.",
            reason="output_in_use",
        )
    path = output_dir / RECORD_NAME
    if resume and in_use:
        _check_same_run(path, record)
        return _last_checkpoint(output_dir)
    if is_first_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)
    return None


def _check_same_run(path: Path, record: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.parent} is not the output of `lossmask train` ({RECORD_NAME}: {error}), so "
            "there is "
            "nothing to resume. Give an empty folder to start anew.",
            reason="nothing_to_resume",
        ) from error
    for key in sorted({*before, *record}):
        if before.get(key) != record.get(key):
            raise PolicyError(
                f"{path} was started with {key}={before.get(key)!r}, now it is "
                f"{record.get(key)!r}. "
                "Resume with the same settings, or train into another folder.",
                reason="different_run",
            )


def _last_checkpoint(output_dir: Path) -> Path | None:
    """Find the newest checkpoint that was written to its end."""
    folders = [path for path in output_dir.iterdir() if CHECKPOINT.fullmatch(path.name)]
    for folder in sorted(folders, key=_step, reverse=True):
        try:
            # transformers writes this file last.
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s was not written to its end; going on from one before it", folder)
            continue
        if state["global_step"] == _step(folder):
            return folder
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _save_tokenizer(source: str | None, output_dir: Path) -> None:
    if source is None:
        logger.info("the data names no tokenizer: %s holds the model alone", output_dir)
        return
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        logger.warning(
            "the tokenizer %s cannot be loaded (%s): %s holds the model alone, copy its tokenizer "
            "there",
            source,
            error,
            output_dir,
        )
        return
    tokenizer.save_pretrained(str(output_dir))
