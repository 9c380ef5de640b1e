"""Cross-entropy at the supervised positions: model and batch in, a loss per supervised token out.

The label of token t + 1 is predicted at position t, and the weight is that of the predicted token::

    position        0     1     2     3     4
    input_ids       7     8     2     9     2
    labels       -100     8     2  -100     2
    loss_weights    0   0.5     1     0     1
    predicted at    -     0     1     -     3
    chosen        yes   yes    no   yes          (3 of 5 hidden states reach the LM head)

A pre-hook on the output embedding hands it the hidden states of the chosen positions alone. The
rest of the model's own ``forward`` then runs as written, so whatever it does to logits
(soft-capping in Gemma 2, scaling in Cohere and Granite) is applied to the chosen ones, in any
architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lossmask.errors import LossmaskError, PreparedDataError
from lossmask.example import IGNORE_INDEX

__all__ = [
    "TokenLosses",
    "at_supervised",
    "head_gives_logits",
    "supervised_loss",
    "supervised_token_losses",
    "supervised_weight",
]

CHUNK_POSITIONS = 1024
"""Positions whose logits exist in float32 at one time: 0.5 GB for a vocabulary of 128,000."""

Batch = Mapping[str, Tensor]
Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Logits (positions, vocabulary) and targets (positions,) -> values per position."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """One entry per supervised token of a batch, in reading order. All of shape (supervised,)."""

    nll: Tensor
    """float32: negative log-likelihood of the label, in nats, with its graph."""
    correct: Tensor
    """bool: whether the label has the highest logit."""
    weights: Tensor
    """float32: loss weight of the label."""
    labels: Tensor
    """int64: the label."""
    examples: Tensor
    """int64: which example of the batch it belongs to."""

    def weighted_sum(self) -> Tensor:
        """Sum ``weight * nll``: a scalar that has a graph even when nothing is supervised."""
        return (self.weights * self.nll).sum()


def supervised_loss(
    model: nn.Module,
    batch: Batch,
    *,
    normalizer: Tensor | float | None = None,
    chunk_positions: int = CHUNK_POSITIONS,
    chunk_head: bool = False,
) -> Tensor:
    """Compute ``sum(w * nll) / sum(|w|)`` over the supervised tokens of a batch.

    Args:
        model: A causal language model of transformers.
        batch: As `PaddedCollator` makes it.
        normalizer: What to divide by instead of the batch's own weight: the weight of *all* batches
            of an optimizer step, so that the update does not depend on how examples are batched.
        chunk_positions: See `supervised_token_losses`.
        chunk_head: See `supervised_token_losses`.

    Returns:
        A float32 scalar with its graph.

    Raises:
        PreparedDataError: The normalizer is not positive: nothing in it is supervised.
    """
    divisor = supervised_weight(batch) if normalizer is None else normalizer
    if not float(divisor) > 0:
        raise PreparedDataError(
            f"no supervised token among {tuple(batch['labels'].shape)} (examples, tokens): the sum "
            f"of loss weights is {float(divisor)}, so there is no loss. Leave such examples out.",
            reason="no_supervised_token",
        )
    losses = supervised_token_losses(
        model, batch, chunk_positions=chunk_positions, chunk_head=chunk_head
    )
    return losses.weighted_sum() / divisor


def supervised_weight(batch: Batch) -> Tensor:
    """Sum the sizes of the loss weights of the tokens that a batch can predict.

    Args:
        batch: ``labels`` int64 and ``loss_weights`` float32 of shape (examples, length). The first
            token of an example counts for nothing: no position predicts it.

    Returns:
        A float32 scalar.
    """
    weights = batch["loss_weights"][:, 1:].to(torch.float32)
    return (weights.abs() * (batch["labels"][:, 1:] != IGNORE_INDEX)).sum()


def supervised_token_losses(
    model: nn.Module,
    batch: Batch,
    *,
    forward: Callable[..., Any] | None = None,
    chunk_positions: int = CHUNK_POSITIONS,
    chunk_head: bool = False,
) -> TokenLosses:
    """Run a model and compute the loss of each supervised token.

    Args:
        model: A causal language model of transformers, bare (not wrapped for distributed training).
        batch: ``input_ids``, ``labels`` int64 and ``loss_weights`` float32 of shape (examples,
            length), with ``attention_mask`` or ``position_ids`` as the model takes them.
        forward: What to call instead of ``model``: the same model, wrapped.
        chunk_positions: How many positions go through the cross-entropy at a time. Each chunk is
            computed again in the backward pass, so their float32 logits never exist together.
        chunk_head: Put the LM head itself through the same chunks, so that not even the logits of
            all supervised positions exist together. Right only where the model returns its head's
            output unchanged (`head_gives_logits`), which is checked on every call.

    Returns:
        The losses, in reading order.

    Raises:
        LossmaskError: The hidden states do not match the labels in shape, the head runs more than
            once, or ``chunk_head`` was asked of a model that changes its logits.
    """
    nll, correct = at_supervised(
        model,
        batch,
        _token_nll,
        forward=forward,
        chunk_positions=chunk_positions,
        chunk_head=chunk_head,
    )
    chosen = batch["labels"][:, 1:] != IGNORE_INDEX
    return TokenLosses(
        nll=nll,
        correct=correct,
        weights=batch["loss_weights"][:, 1:][chosen].to(nll.device, torch.float32),
        labels=batch["labels"][:, 1:][chosen].to(nll.device),
        examples=chosen.nonzero()[:, 0].to(nll.device),
    )


def at_supervised(
    model: nn.Module,
    batch: Batch,
    step: Step,
    *,
    forward: Callable[..., Any] | None = None,
    chunk_positions: int = CHUNK_POSITIONS,
    chunk_head: bool = False,
) -> tuple[Tensor, ...]:
    """Run a model and compute something from the logits of each supervised token.

    Args:
        model: As `supervised_token_losses` takes it.
        batch: The same.
        step: What to compute, chunk by chunk.
        forward: As `supervised_token_losses` takes it.
        chunk_positions: The same; so many positions go through ``step`` at a time.
        chunk_head: The same.

    Returns:
        What ``step`` returns, for all supervised tokens, in reading order.

    Raises:
        LossmaskError: As `supervised_token_losses`.
    """
    chosen = batch["labels"][:, 1:] != IGNORE_INDEX
    targets = batch["labels"][:, 1:][chosen]
    tap = _HeadTap(chosen, targets, step, chunk_positions if chunk_head else None)
    inputs: dict[str, Any] = {
        name: values for name, values in batch.items() if name not in _NOT_INPUTS
    }
    if "attention_mask" not in batch:
        # With a cache, transformers keeps no documents of one row apart (masking_utils.py).
        inputs["use_cache"] = False
    logits = _run(model, forward or model, inputs, tap)
    if tap.results is not None:
        _check_unchanged(model, tap.head_output, logits)
        return tap.results
    picked = logits[0] if tap.calls else logits[:, :-1][chosen.to(logits.device)]
    return _in_chunks(step, picked, targets, chunk_positions)


def head_gives_logits(model: nn.Module) -> bool:
    """Run a model on two tokens to see whether it returns the output of its LM head unchanged.

    Args:
        model: A causal language model of transformers.

    Returns:
        False where the model caps or scales its logits, or has no output embedding.
    """
    head = _output_embedding(model)
    if head is None:
        return False
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, args, output: seen.append(output))
    training = model.training
    device = next(model.parameters()).device
    try:
        model.eval()  # dropout would draw from the generator and so shift a resumed run
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[0, 1]], device=device)).logits
    finally:
        model.train(training)
        handle.remove()
    return len(seen) == 1 and _same(seen[0], logits)


_NOT_INPUTS = frozenset({"labels", "loss_weights"})


class _HeadTap:
    """Hooks around one call of the LM head that keep all but the chosen hidden states from it.

    Args:
        chosen: (examples, length - 1) bool: positions that predict a supervised token.
        targets: (supervised,) int64: what they predict.
        step: What to compute from their logits.
        chunk_positions: If given, that is done here, chunk by chunk from the hidden states, and the
            model goes on with the logits of the first chosen position only.
    """

    def __init__(
        self, chosen: Tensor, targets: Tensor, step: Step, chunk_positions: int | None
    ) -> None:
        self.chosen = chosen
        self.targets = targets
        self.step = step
        self.chunk_positions = chunk_positions
        self.calls = 0
        self.hidden: Tensor | None = None
        self.head_output: Tensor | None = None
        self.results: tuple[Tensor, ...] | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Replace hidden states (examples, length, width) by the chosen (1, supervised, width)."""
        hidden = args[0]
        examples, shorter = self.chosen.shape
        self.calls += 1
        if self.calls > 1 or hidden.shape[:-1] != (examples, shorter + 1):
            raise LossmaskError(
                f"call {self.calls} of the output embedding gets hidden states "
                f"{tuple(hidden.shape)} for labels {(examples, shorter + 1)}; expected one call "
                "with a state per label. Models with virtual tokens or several heads cannot be "
                "trained here.",
                reason="unusual_head",
            )
        picked = hidden[:, :-1][self.chosen.to(hidden.device)].unsqueeze(0)
        if self.chunk_positions is None:
            return (picked, *args[1:])
        self.hidden = picked[0]
        return (picked[:, :1], *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Apply the step inside the model's forward, where autocast still holds."""
        if self.chunk_positions is None or self.hidden is None:
            return

        def head_and_step(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            # ``module(...)`` would come back to these hooks.
            return self.step(module.forward(hidden), targets)

        self.head_output = output.detach()
        self.results = _in_chunks(head_and_step, self.hidden, self.targets, self.chunk_positions)


def _run(
    model: nn.Module, forward: Callable[..., Any], inputs: Mapping[str, Any], tap: _HeadTap
) -> Tensor:
    head = _output_embedding(model)
    handles = (
        []
        if head is None
        else [head.register_forward_pre_hook(tap.before), head.register_forward_hook(tap.after)]
    )
    try:
        logits: Tensor = forward(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits


def _output_embedding(model: nn.Module) -> nn.Module | None:
    getter: Callable[[], nn.Module | None] | None = getattr(model, "get_output_embeddings", None)
    return None if getter is None else getter()


def _in_chunks(step: Step, states: Tensor, targets: Tensor, size: int) -> tuple[Tensor, ...]:
    """Apply ``step`` to (positions, ...) states in chunks, forgetting what it computes in between.

    An empty input makes one empty chunk, which keeps its graph: every parameter then has a
    gradient, 0.
    """
    targets = targets.to(states.device)
    parts: list[tuple[Tensor, ...]] = [
        checkpoint(
            step, states[start : start + size], targets[start : start + size], use_reentrant=False
        )
        for start in range(0, max(len(states), 1), size)
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def _token_nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    nll = functional.cross_entropy(logits.float(), targets, reduction="none")
    return nll, logits.argmax(dim=-1) == targets


def _check_unchanged(model: nn.Module, head_output: Tensor | None, logits: Tensor) -> None:
    if head_output is None or not _same(head_output, logits):
        raise LossmaskError(
            f"{type(model).__name__} changes the output of its LM head (soft-capping or scaling), "
            "so its losses cannot be computed from the head alone. Pass chunk_head=False.",
            reason="logits_changed",
        )


def _same(head_output: Tensor, logits: Tensor) -> bool:
    # Mixed precision widens what the model returns, which changes no value.
    return torch.equal(head_output.float(), logits.to(head_output.device).float())
