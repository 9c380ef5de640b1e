"""Headers of a style as tokens: added to the tokenizer, given a beginning in the model.

A new row of an embedding is noise. Here it begins as the mean of the rows of the pieces that the
new token replaces, so that the model reads a header at first much as it read it before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossmask.errors import PolicyError
from lossmask.instruction_styles import missing_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def with_headers(
    tokenizer: PreTrainedTokenizerBase, style: str
) -> tuple[PreTrainedTokenizerBase, dict[str, list[int]]]:
    """Return a copy of a tokenizer that has the headers of a style as tokens.

    Args:
        tokenizer: It is not changed.
        style: One of ``instruction_styles.STYLES``.

    Returns:
        The copy, and the ids of the pieces that each added token replaces.
    """
    from transformers import AddedToken  # slow to import

    missing = missing_tokens(tokenizer, style)
    pieces = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in missing}
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in missing], special_tokens=True
    )
    return grown, pieces


def grow_embeddings(model: Any, vocab_size: int, pieces: Mapping[int, Sequence[int]]) -> None:
    """Give added tokens a row each in the embedding and the LM head of a model.

    Args:
        model: A causal language model of transformers; it is changed.
        vocab_size: Tokens of the tokenizer.
        pieces: Id of each added token -> the ids whose rows it begins as the mean of.
    """
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    if size < vocab_size:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [inputs.weight]
    if outputs is not None and outputs.weight.data_ptr() != inputs.weight.data_ptr():
        tables.append(outputs.weight)
    with torch.no_grad():
        for table in tables:
            for token, replaced in pieces.items():
                table[token] = table[list(replaced)].float().mean(dim=0).to(table.dtype)


def lora_modules_of_added(model: Any, chosen: Sequence[str]) -> tuple[str, ...]:
    """Return ``modules_to_save`` with the embedding, which adapters alone would leave as it began.

    Raises:
        PolicyError: The model's embedding or LM head has no name.
    """
    wanted = [model.get_input_embeddings()]
    outputs = model.get_output_embeddings()
    if outputs is not None and outputs.weight.data_ptr() != wanted[0].weight.data_ptr():
        wanted.append(outputs)
    names = []
    for module in wanted:
        found = [name for name, each in model.named_modules() if each is module]
        if not found:
            raise PolicyError("the model's embedding is no module of it: tokens cannot be added")
        names.append(found[0].rpartition(".")[2])
    return (*chosen, *(name for name in names if name not in chosen))
