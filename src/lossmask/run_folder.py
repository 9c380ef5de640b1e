"""A training run's output folder: claimed by a new run, found again by one that resumes.

::

    OUT/lossmask_training.json   what decides the weights of the run, written before its first step
    OUT/checkpoint-500/          as transformers writes it
    OUT/...                      at the end: the model, its tokenizer, trainer_state.json

Comes in: the folder and the settings of a run. Goes out: the checkpoint to continue from, if any.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from lossmask.errors import InputError, PolicyError

__all__ = ["checkpoint_step", "claim_output", "describe_run"]

logger = logging.getLogger(__name__)

RECORD_NAME = "lossmask_training.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

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
"""Training arguments that decide the weights: a run can be resumed only under the same."""


def describe_run(
    arguments: TrainingArguments,
    model: nn.Module,
    *,
    examples: int,
    manifest: Mapping[str, Any] | None,
    lora: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Describe a run by what decides its weights.

    Args:
        arguments: Its training arguments.
        model: The model before adapters; only its type and size count.
        examples: How many it trains on.
        manifest: Of the prepared data; None for examples in memory.
        lora: Settings of the adapters; None for full fine-tuning.

    Returns:
        JSON values, equal to themselves after a round trip through a file.
    """
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in _TRAJECTORY}
    settings["examples"] = examples
    settings["dtype"] = str(next(model.parameters()).dtype)
    settings["parameters"] = sum(values.numel() for values in model.parameters())
    settings["lora"] = lora
    if manifest is not None:
        text = json.dumps(manifest, sort_keys=True)
        settings["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    record: dict[str, Any] = json.loads(json.dumps(settings))
    return record


def claim_output(
    output_dir: Path, record: Mapping[str, Any], *, resume: bool, is_first_process: bool
) -> Path | None:
    """Start a run in an output folder, or find the one to resume in it.

    With several processes, the first has to come back before the others call this.

    Args:
        output_dir: Made if missing. In use if it is a file or holds anything.
        record: As `describe_run` gives it.
        resume: Continue the run that is in the folder, if it is in use.
        is_first_process: Only the first process writes, and only it objects to a folder in use.

    Returns:
        The last whole checkpoint to continue from, or None to start from the beginning.

    Raises:
        InputError: The folder is in use; or, with ``resume``, by something else than such a run.
        PolicyError: The run in it has other settings.
    """
    in_use = output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir()))
    path = output_dir / RECORD_NAME
    if resume and in_use:
        _check_same_run(path, record)
        return _last_checkpoint(output_dir)
    if not is_first_process:
        return None
    if in_use:
        raise InputError(
            f"{output_dir} is not an empty folder. Give another one, or resume the run in it.",
            reason="output_in_use",
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)
    return None


def checkpoint_step(checkpoint: Path | None) -> int:
    """Return the optimizer step after which a checkpoint was written; 0 for None.

    Example:
        >>> checkpoint_step(Path("out/checkpoint-500"))
        500
    """
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def _check_same_run(path: Path, record: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.parent} is not the output of `lossmask train` ({RECORD_NAME}: {error}), so "
            "there is nothing to resume. Give an empty folder to start anew.",
            reason="nothing_to_resume",
        ) from error
    for key in sorted({*before, *record}):
        if before.get(key) != record.get(key):
            raise PolicyError(
                f"{path} was started with {key}={before.get(key)!r}, now it is "
                f"{record.get(key)!r}. Resume with the same settings, or train into another folder.",
                reason="different_run",
            )


def _last_checkpoint(output_dir: Path) -> Path | None:
    """Find the newest checkpoint that was written to its end."""
    folders = [path for path in output_dir.iterdir() if _CHECKPOINT.fullmatch(path.name)]
    for folder in sorted(folders, key=checkpoint_step, reverse=True):
        try:
            # transformers writes this file last.
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s was not written to its end; going on from one before it", folder)
            continue
        if state["global_step"] == checkpoint_step(folder):
            return folder
    return None
