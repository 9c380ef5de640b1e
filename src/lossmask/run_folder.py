"""A training run's output folder: claimed by a new run, found again by one that resumes, completed.

::

    OUT/lossmask_training.json   what decides the weights of the run, written before its first step
    OUT/checkpoint-500/          as transformers writes it
    OUT/...                      at the end: the model, trainer_state.json, and what inference needs

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
from transformers import AutoTokenizer, PreTrainedModel, TrainingArguments

from lossmask.errors import InputError, PolicyError
from lossmask.prepared import PreparedDataset

__all__ = ["checkpoint_step", "open_run", "save_for_inference"]

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


def open_run(
    arguments: TrainingArguments,
    model: nn.Module,
    *,
    examples: int,
    packing: int | None,
    manifest: Mapping[str, Any] | None,
    lora: Mapping[str, Any] | None,
    resume: bool,
) -> Path | None:
    """Start a run in its output folder, or find the one to resume in it.

    Every process of the run has to call this.

    Args:
        arguments: Its training arguments. ``output_dir`` is made if missing; it is in use if it is
            a file or holds anything.
        model: The model before adapters. Only its type and size count, not its weights.
        examples: How many it trains on, or how many packs of them.
        packing: Tokens that a pack has room for; None without packs.
        manifest: Of the prepared data; None for examples in memory.
        lora: Settings of the adapters; None for full fine-tuning.
        resume: If the folder is in use, continue the run that is in it.

    Returns:
        The last whole checkpoint to continue from, or None to start from the beginning.

    Raises:
        InputError: The folder is in use; or, with ``resume``, by something else than such a run.
        PolicyError: The run in it has other settings.
    """
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in _TRAJECTORY}
    settings["examples"] = examples
    settings["packing"] = packing
    settings["dtype"] = str(next(model.parameters()).dtype)
    settings["parameters"] = sum(values.numel() for values in model.parameters())
    settings["lora"] = lora
    if manifest is not None:
        text = json.dumps(manifest, sort_keys=True)
        settings["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    record = json.loads(json.dumps(settings))  # as it will be read back
    # The others find the folder as the first process leaves it, never half made.
    with arguments.main_process_first(local=False):
        return _claim_output(
            Path(arguments.output_dir), record, resume, arguments.process_index == 0
        )


def _claim_output(
    output_dir: Path, record: Mapping[str, Any], resume: bool, is_first_process: bool
) -> Path | None:
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


def save_for_inference(
    model: PreTrainedModel, prepared: PreparedDataset | None, output_dir: Path
) -> None:
    """Save what inference needs next to the weights, so that it sees what training saw.

    Args:
        model: The model without adapters; its ``generation_config`` is saved (PEFT does not).
        prepared: Names the tokenizer, which is saved with the chat template that rendered the data;
            None for examples in memory.
        output_dir: Where the weights are.
    """
    if model.can_generate():
        model.generation_config.save_pretrained(str(output_dir))
    if prepared is None:
        logger.info("examples in memory name no tokenizer: %s holds the model alone", output_dir)
        return
    source, template = prepared.tokenizer["path"], prepared.manifest["chat_template"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        logger.warning(
            "the tokenizer %s cannot be loaded (%s): %s holds the model alone; copy its tokenizer "
            "there and give it the chat_template of the manifest",
            source,
            error,
            output_dir,
        )
        return
    given = tokenizer.chat_template
    # A default among named templates stays there: its neighbours rendered the rows with tools.
    if not (isinstance(given, dict) and given.get("default") == template):
        tokenizer.chat_template = template
    tokenizer.save_pretrained(str(output_dir))


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
                f"{record.get(key)!r}. Resume with the same settings, or train into another "
                "folder.",
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
