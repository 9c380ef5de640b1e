"""Does a model keep the documents of one row apart? A model in, nothing or an error out.

transformers tells documents by positions that begin anew, and masks attention between them, if it
gets ``position_ids``, neither ``attention_mask`` nor a cache, and an architecture and attention
implementation that does so. Those that do not (ALiBi models, which take no positions, state-space
and linear-attention layers, architectures that build their mask without the positions) let
documents see each other without a word. So the model itself is asked, as it is set up, before it
is trained on packs::

    row          a a a a | b b b b
    positions    0 1 2 3 | 0 1 2 3
    d logits(b) / d embedding(a)  has to be 0, exactly

A masked position has weight 0 and so has the gradient through it, in every number format. Whatever
leaks, through attention, convolution or state, leaves one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lossmask.errors import PolicyError
from lossmask.padding_free import PaddingFreeCollator

__all__ = ["check_isolation"]

_DOCUMENTS = ([1, 2, 3, 4], [5, 6, 7, 8])
_LENGTH = 4


def check_isolation(model: nn.Module, collate: PaddingFreeCollator | None = None) -> None:
    """Check that documents in one row, told by their positions, do not see each other.

    Two short documents go through the model, forward and backward. Its weights, gradients and mode
    are left as they are, and so is the random generator.

    Args:
        model: A causal language model of transformers, with its weights, on its device.
        collate: What makes the batches that it will be trained on.

    Raises:
        PolicyError: It does not keep them apart (reason ``documents_not_isolated``), or that cannot
            be told (``isolation_unknown``).
    """
    if any(values.is_meta or not values.numel() for values in model.parameters()):
        raise _unknown(model, "its weights are not here as a whole", "Train without packing")
    collate = replace(collate or PaddingFreeCollator(), ignore=None, return_tensors="pt")
    first, second = ({"input_ids": ids, "labels": ids} for ids in _DOCUMENTS)
    was_training = model.training
    try:
        model.eval()
        packed, leaks, reaches = _run_packed(model, collate([first, second]))
        with torch.no_grad():
            alone = _logits(model, collate([second]))[:, :_LENGTH].float()
    finally:
        model.train(was_training)
    if not 0 < reaches < math.inf:
        raise _unknown(model, f"its gradients are {reaches}", "Check its weights")
    off = float((packed - alone).abs().max())
    scale = float(alone.abs().max())
    if leaks != 0 or not off <= _tolerance(packed) * scale:
        raise PolicyError(
            f"{_named(model)} does not keep the documents of a pack apart: the logits of the "
            f"second depend on the first (gradient up to {leaks:.1e}) or on its place (by "
            f"{off:.1e} of {scale:.1e}). Train without packing, which pads instead, or load the "
            "model with another attn_implementation.",
            reason="documents_not_isolated",
        )


def _run_packed(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, float, float]:
    """Run the two documents as one row.

    Returns:
        Logits of the second (1, tokens, vocabulary); their largest gradient with respect to what
        the first document's tokens are embedded as; and to the second's.
    """
    embedded: list[Tensor] = []

    def as_leaf(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    handle = embedding.register_forward_hook(as_leaf)
    try:
        with torch.enable_grad():
            second = _logits(model, batch)[:, _LENGTH : 2 * _LENGTH]
            # Weights that differ: a plain sum of what a norm has centred could have no gradient.
            weights = torch.linspace(-1, 2, second.shape[-1], device=second.device)
            gradients = torch.autograd.grad((second.float() * weights).sum(), embedded)
    finally:
        handle.remove()
    parts = [gradient.float().abs() for gradient in gradients]
    leaks = max(float(part[:, :_LENGTH].max()) for part in parts)
    reaches = max(float(part[:, _LENGTH : 2 * _LENGTH - 1].max()) for part in parts)
    return second.detach(), leaks, reaches


def _logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    device = next(model.parameters()).device
    inputs = {
        name: values.to(device) if isinstance(values, Tensor) else values
        for name, values in batch.items()
        if name not in ("labels", "loss_weights")
    }
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"{_named(model)} cannot be told where the documents of a pack begin: {error}. Train "
            "without packing, which pads instead.",
            reason="documents_not_isolated",
        ) from error
    return logits


def _tolerance(logits: Tensor) -> float:
    """Return by how much of its size a logit may differ for the same tokens at another place."""
    kinds = [logits.dtype]
    if torch.is_autocast_enabled(logits.device.type):
        kinds.append(torch.get_autocast_dtype(logits.device.type))
    return max(1e-4, *(8 * torch.finfo(kind).eps for kind in kinds))


def _named(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    return f"{type(model).__name__} (attention: {getattr(config, '_attn_implementation', None)})"


def _unknown(model: nn.Module, why: str, remedy: str) -> PolicyError:
    return PolicyError(
        f"whether {_named(model)} keeps the documents of a pack apart cannot be told: {why}. "
        f"{remedy}.",
        reason="isolation_unknown",
    )
