"""Train on prepared data: a folder (or examples in memory) and a model in, a fine-tuned model out.

The loss is that of `LossmaskTrainer`. Everything else (schedules, precision, FSDP, checkpoints,
loggers) is ``transformers.Trainer``, whose ``TrainingArguments`` are passed through.

The model is saved so that inference sees what training saw: it ends at the stop tokens of the
prepared data, and its tokenizer has the chat template that rendered them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import Subset
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lossmask.added_tokens import grow_embeddings, lora_modules_of_added
from lossmask.collate import PaddedCollator
from lossmask.errors import PolicyError, PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.ignoring import IgnoreTokens
from lossmask.model_loading import check_embeddings, load_model
from lossmask.packed_examples import PackedExamples, pack_examples
from lossmask.padding_free import PaddingFreeCollator
from lossmask.policy import nearest
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.run_folder import checkpoint_step, open_run, save_for_inference
from lossmask.trainer import LossmaskTrainer

__all__ = ["Examples", "LoraSettings", "TrainingResult", "train"]

_BATCH_SIZE = 8
"""Examples a forward pass, by default."""


class Examples(Protocol):
    """A map-style data set: `PreparedDataset`, a torch ``Dataset``, a list.

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
                "of 1 or more, a positive alpha and a dropout of at least 0 and below 1."
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
    packing_efficiency: float | None
    """Share of the packs that is filled, at most 1; None without packing."""
    resumed_from: int
    """Step of the checkpoint that this call continued, 0 for a fresh start."""


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
    batch_size: int | None = None,
    gradient_accumulation: int = 1,
    packing: int | None = None,
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
        output_dir: Gets the model, its tokenizer (with the manifest's chat template) and the
            checkpoints. New or empty, unless ``resume``.
        eval_folder: Held-out examples, prepared or in memory.
        eval_share: Or the share of the training rows to hold out; all examples of a row stay
            together.
        epochs: Passes over the data. Not used if ``max_steps`` is given.
        max_steps: Optimizer steps.
        learning_rate: Peak; by default 2e-5, and 2e-4 with LoRA.
        batch_size: Examples per micro-batch and process, by default 8; with ``packing``, packs, by
            default 1: they make one row, in which attention without flash costs its square.
        gradient_accumulation: Micro-batches per optimizer step.
        packing: Train on packs of up to so many tokens instead of padded batches
            (`lossmask.packing.pack`); the model has to keep their documents apart, which is
            checked. Evaluation pads.
        seed: Of the order of examples, the held-out rows, dropout and new weights.
        lora: Train adapters instead of the whole model.
        dtype: Type the weights are loaded in: a torch type's name, or ``auto`` for that of the
            checkpoint. By default ``auto`` under LoRA and ``float32`` else: small updates vanish in
            bfloat16 weights.
        resume: Continue the run in ``output_dir`` from its last whole checkpoint; with none, start
            it. The resulting weights are those of a run that was never interrupted.
        stop_ids: Tokens whose accuracy evaluation reports apart; by default those of the manifest.
            The saved ``generation_config`` ends at both.
        callbacks: Callbacks of transformers, such as a progress display.
        progress: Show the progress bar of transformers.
        training_arguments: Any other field of ``transformers.TrainingArguments``.

    Returns:
        What was done.

    Raises:
        InputError: The model cannot be loaded, ``output_dir`` is in use, or an example is longer
            than a pack.
        PolicyError: A setting is unknown or wrong, or differs from that of the run to resume; or
            the model does not keep the documents of a pack apart.
        PreparedDataError: The data is not usable, or does not fit the model.
    """
    data = _open(prepared)
    train_data, eval_data = _hold_out(data, eval_folder, eval_share, seed)
    packed = None if packing is None else pack_examples(train_data, packing, seed=seed)
    items = train_data if packed is None else packed
    size = batch_size or (_BATCH_SIZE if packed is None else 1)
    rate = learning_rate if learning_rate is not None else (2e-4 if lora else 2e-5)
    arguments = _arguments(
        {
            "output_dir": str(output_dir),
            "num_train_epochs": epochs,
            "max_steps": -1 if max_steps is None else max_steps,
            "learning_rate": rate,
            "per_device_train_batch_size": size,
            "per_device_eval_batch_size": size if packed is None else _BATCH_SIZE,
            "gradient_accumulation_steps": gradient_accumulation,
            "seed": seed,
            "disable_tqdm": not progress,
        },
        training_arguments or {},
        evaluates=eval_data is not None,
    )
    set_seed(seed)
    network = load_model(model, dtype or ("auto" if lora else "float32"))
    if isinstance(data, PreparedDataset) and (added := data.tokenizer.get("added")):
        pieces = {int(token): replaced for token, replaced in added.items()}
        grow_embeddings(network, data.tokenizer["vocab_size"], pieces)
        if lora is not None:
            modules = lora_modules_of_added(network, lora.modules_to_save)
            lora = dataclasses.replace(lora, modules_to_save=modules)
    _check_fits(data, network)
    if eval_data is not None and not eval_share:
        _check_fits(eval_data, network)
    own = data if isinstance(data, PreparedDataset) else None
    checkpoint = open_run(
        arguments,
        network,
        examples=len(items),
        packing=packing,
        manifest=None if own is None else own.manifest,
        lora=None if lora is None else dataclasses.asdict(lora),
        resume=resume,
    )
    tokenizer = {} if own is None else own.tokenizer
    known_stops = tokenizer.get("stop_ids", ())
    _end_at(network, {*known_stops, *(stop_ids or ())})
    trainer = LossmaskTrainer(
        network if lora is None else _with_adapters(network, lora),
        arguments,
        train_dataset=items,
        eval_dataset=eval_data,
        data_collator=_collator(own, tokenizer, seed, pads=packed is None),
        callbacks=callbacks,
        stop_ids=known_stops if stop_ids is None else stop_ids,
    )
    with warnings.catch_warnings():
        # what PEFT does of itself where tokens were added: the embedding is saved, as it has to be
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
        result = _run(trainer, Path(output_dir), checkpoint, packed)
    if trainer.args.should_save:
        save_for_inference(network, own, Path(output_dir))
    return result


def _collator(
    data: PreparedDataset | None, tokenizer: Mapping[str, Any], seed: int, *, pads: bool
) -> PaddedCollator | PaddingFreeCollator:
    """Return the collator, which leaves out the tokens that the data's policy ignores."""
    policy: Mapping[str, Any] = {} if data is None else data.manifest.get("policy", {})
    ignore = None
    if policy.get("ignore"):
        ignore = IgnoreTokens(policy["ignore_probability"], seed)
    if not pads:
        return PaddingFreeCollator(return_flash_attn_kwargs=True, ignore=ignore)
    return PaddedCollator(pad_token_id=tokenizer.get("pad_token_id") or 0, ignore=ignore)


def _run(
    trainer: LossmaskTrainer,
    output_dir: Path,
    checkpoint: Path | None,
    packed: PackedExamples | None,
) -> TrainingResult:
    outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = {} if trainer.eval_dataset is None else trainer.evaluate()
    trainer.save_model(str(output_dir))
    if trainer.args.should_save:
        trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    start = checkpoint_step(checkpoint)
    return TrainingResult(
        output_dir=output_dir,
        steps=trainer.state.global_step,
        train_loss=outcome.training_loss if trainer.state.global_step > start else None,
        metrics=metrics,
        tokens=trainer.tokens,
        supervised_tokens=trainer.supervised_tokens,
        packing_efficiency=None if packed is None else packed.packs.efficiency,
        resumed_from=start,
    )


def _open(source: str | Path | Examples) -> Examples:
    data = load_prepared(source) if isinstance(source, str | Path) else source
    if not len(data):
        where = data.folder if isinstance(data, PreparedDataset) else "the data given"
        raise PreparedDataError(f"{where} holds no example.", reason="no_examples")
    return data


def _hold_out(
    data: Examples, eval_folder: str | Path | Examples | None, eval_share: float, seed: int
) -> tuple[Examples, Examples | None]:
    """Return what to train on and what to evaluate on."""
    if not 0 <= eval_share < 1 or (eval_share and eval_folder is not None):
        raise PolicyError(
            f"eval_share is {eval_share} and eval_folder {eval_folder!r}: give a share of at least "
            "0 and below 1, or evaluation data, not both."
        )
    if not eval_share:
        return data, None if eval_folder is None else _open(eval_folder)
    # The examples of one row share their beginning: held out apart, evaluation would see it.
    groups = data.rows if isinstance(data, PreparedDataset) else np.arange(len(data))
    rows = np.random.default_rng(seed).permutation(np.unique(groups))
    count = max(1, round(eval_share * len(rows)))
    if count >= len(rows):
        raise PolicyError(
            f"eval_share={eval_share} of {len(rows)} rows leaves none to train on. Lower it, or "
            "prepare more data."
        )
    held_out = np.isin(groups, rows[:count])
    return _subset(data, ~held_out), _subset(data, held_out)


def _subset(data: Examples, keep: npt.NDArray[np.bool_]) -> Examples:
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


def _arguments(
    own: Mapping[str, Any], extra: Mapping[str, Any], *, evaluates: bool
) -> TrainingArguments:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for key in extra:
        if key in _OWN_KEYWORDS:
            raise PolicyError(
                f"training_arguments has {key!r}: pass {_OWN_KEYWORDS[key]}= instead."
            )
        if key not in known:
            raise PolicyError(
                f"training_arguments has {key!r}, no field of transformers.TrainingArguments; "
                f"{nearest(key, sorted(known - _OWN_KEYWORDS.keys()))}"
            )
    on_gpu = torch.cuda.is_available()
    defaults = {
        "bf16": on_gpu and torch.cuda.is_bf16_supported() and not extra.get("fp16", False),
        "dataloader_pin_memory": on_gpu,
        "eval_strategy": "epoch" if evaluates else "no",
        "logging_nan_inf_filter": False,
        "logging_steps": 10,
        "report_to": "none",
        "save_total_limit": 2,
    }
    try:
        return TrainingArguments(**{**defaults, **own, **extra})
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"transformers.TrainingArguments refuses these settings: {error}"
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
        ensure_weight_tying=bool(lora.modules_to_save) and model.config.tie_word_embeddings,
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 under a name that will go in version 6
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        try:
            adapted: nn.Module = get_peft_model(model, settings)
        except ValueError as error:
            raise PolicyError(f"the LoRA settings do not fit the model: {error}") from error
    return adapted


def _check_fits(data: Examples, model: PreTrainedModel) -> None:
    """Check that every token has an embedding, and that every example has a loss."""
    if isinstance(data, PreparedDataset):  # which was checked when it was opened
        check_embeddings(model, *data.largest_token())
    else:
        check_embeddings(model, *_largest_token(data))


def _largest_token(data: Examples) -> tuple[int, str]:
    """Find the largest token id and its example, and check that every example has a loss."""
    best, where = -1, ""
    for index in range(len(data)):
        example = data[index]
        if not (np.asarray(example["labels"])[1:] != IGNORE_INDEX).any():
            raise PreparedDataError(
                f"example {index} has no token in the loss that could be predicted. Leave it out.",
                reason="no_supervised_token",
            )
        largest = int(np.max(np.asarray(example["input_ids"])))
        if largest > best:
            best, where = largest, f"example {index}"
    return best, where


def _end_at(model: PreTrainedModel, stop_ids: Collection[int]) -> None:
    """Let generation end at the stop ids too, in this process and wherever the model is saved."""
    if not model.can_generate():
        return
    config = model.generation_config
    eos = config.eos_token_id
    known = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    new = sorted(set(stop_ids) - set(known))
    if not new:
        return
    config.eos_token_id = [*known, *new]
    # transformers refuses to save a changed configuration whose sampling settings contradict each
    # other, and many published ones do; one that counts as unchanged it saves with a warning.
    config._original_object_hash = hash(config)
