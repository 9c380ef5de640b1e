"""A path or hub id -> a causal language model, checked against the token ids it will get."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from lossmask.errors import InputError, PreparedDataError

__all__ = ["check_embeddings", "load_model"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def load_model(model: str | Path | PreTrainedModel, dtype: str) -> PreTrainedModel:
    """Load a causal language model; one that is loaded already is returned as it is.

    Args:
        model: Its folder, its hub id, or the model.
        dtype: A torch type's name, or ``auto`` for that of the checkpoint.

    Raises:
        InputError: There is none, or it cannot be loaded.
    """
    if not isinstance(model, str | Path):
        return model
    if not Path(model).exists() and not _HUB_ID.fullmatch(str(model)):
        raise InputError(
            f"there is no model at {model}. Give the folder of a saved model.",
            reason="missing_model",
        )
    try:
        return AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"the model {model} cannot be loaded: {error}. Expected a causal language model with "
            "its config.json and weights.",
            reason="unloadable_model",
        ) from error


def check_embeddings(model: PreTrainedModel, largest: int, where: str) -> None:
    """Check that every token has an embedding.

    Args:
        model: The model.
        largest: The largest token id of the data.
        where: The words that name the first example holding it.

    Raises:
        PreparedDataError: It has none.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if largest >= size:
        raise PreparedDataError(
            f"{where}: token id {largest} has no embedding; the model has {size} (0 to "
            f"{size - 1}). The data was prepared with another tokenizer, or tokens were added: "
            "prepare it with the model's own, or resize the model's embeddings.",
            reason="token_outside_model",
        )
