"""What does a model predict at each token? A prepared folder and a model in, `ProbedTokens` out.

One forward pass per batch. The loss of token t + 1 is read off the logits at position t, and the
logits exist a few positions at a time (those in the loss all at once where a model caps or scales
them, as Gemma 2 does). Results are those of each example alone, whatever shares its batch, up to
rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lossmask.collate import PaddedCollator
from lossmask.errors import LossmaskError, PolicyError, PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.model_loading import check_embeddings, load_model
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.probed_tokens import ProbedTokens, ProbeFolder
from lossmask.supervised_loss import at_supervised, head_gives_logits

__all__ = ["probe", "token_predictions"]

EXAMPLES_PER_PART = 1024
"""Examples of a part of the output; those of like length among them share batches."""
LOGITS_AT_ONCE = 2**25
"""Logits that exist in float32 at one time: 128 MB, a few times over."""


def probe(
    prepared: str | Path | PreparedDataset,
    model: str | Path | PreTrainedModel,
    *,
    output: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    max_tokens: int = 8192,
    top_k: int = 5,
    all_tokens: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> ProbedTokens:
    """Run a model over prepared examples and tell what it predicts at each token.

    Args:
        prepared: The folder that ``lossmask prepare`` wrote.
        model: Path or hub id of a causal language model, or the model itself.
        output: Folder for the result. A run that was killed goes on in it.
        limit: Look at the first so many examples only.
        batch_size: Examples of a batch at most.
        max_tokens: Positions of a batch at most, padding counted; a longer example is one itself.
        top_k: How many of the likeliest tokens to keep.
        all_tokens: Look at every token, not only at those in the loss.
        device: A torch device, or ``auto``: a GPU if there is one. A loaded model stays where it
            is under ``auto``.
        dtype: Type the weights are loaded in; ``auto``: that of the checkpoint.
        progress: Is told of the tokens that are done, as they are.

    Returns:
        The tokens, by example and position.

    Raises:
        InputError: The model cannot be loaded, or the output folder holds something else.
        PolicyError: A setting is wrong.
        PreparedDataError: The data is not usable, or does not fit the model.
        LossmaskError: A loss is no number.
    """
    data = prepared if isinstance(prepared, PreparedDataset) else load_prepared(prepared)
    count = _check(data, limit, batch_size=batch_size, max_tokens=max_tokens, top_k=top_k)
    network = load_model(model, _dtype(dtype))
    check_embeddings(network, *data.largest_token())
    if device != "auto" or isinstance(model, str | Path):
        network.to(_device(device))
    settings = {
        "prepared": _hash(data.manifest),
        "model": _identity(model, network),
        "dtype": str(network.dtype),
        "examples": count,
        "top_k": top_k,
        "all_tokens": all_tokens,
    }
    folder = None if output is None else ProbeFolder(Path(output), settings)
    run = _Run(network, data, top_k=top_k, all_tokens=all_tokens)
    parts = []
    for number, first in enumerate(range(0, count, EXAMPLES_PER_PART)):
        members = np.arange(first, min(first + EXAMPLES_PER_PART, count))
        part = None if folder is None else folder.part(number)
        if part is None:
            part = run.part(members, batch_size, max_tokens, progress)
            if folder is not None:
                folder.write_part(number, part)
        elif progress is not None:
            progress(int(data.lengths[members].sum()))
        parts.append(part)
    tokens = ProbedTokens.joined(parts)
    if folder is not None:
        folder.finish(len(tokens))
    return tokens


class _Run:
    """A model and the data it is run over."""

    def __init__(
        self, model: PreTrainedModel, data: PreparedDataset, *, top_k: int, all_tokens: bool
    ) -> None:
        self.model, self.data = model, data
        self.top_k, self.all_tokens = top_k, all_tokens
        self.chunk_head = head_gives_logits(model)
        self.collate = PaddedCollator(pad_token_id=data.tokenizer.get("pad_token_id") or 0)

    def part(
        self,
        members: npt.NDArray[np.int64],
        batch_size: int,
        max_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> ProbedTokens:
        """Run the model over some examples and return their tokens in order."""
        lengths = self.data.lengths[members]
        done = []
        for places in batches_of(lengths, batch_size=batch_size, max_tokens=max_tokens):
            done.append(self.batch(members[places]))
            if progress is not None:
                progress(int(lengths[places].sum()))
        tokens = ProbedTokens.joined(done)
        return tokens.taken(np.lexsort((tokens.position, tokens.example)))

    def batch(self, numbers: npt.NDArray[np.int64]) -> ProbedTokens:
        """Run the model over one batch."""
        made = self.collate(self.data.__getitems__(numbers))
        if self.all_tokens:
            inside = made["attention_mask"].bool()
            made["labels"] = torch.where(inside, made["input_ids"], IGNORE_INDEX)
        losses, ranks, top_ids, top_logprobs = token_predictions(
            self.model, made, top_k=self.top_k, chunk_head=self.chunk_head
        )
        row, place = (made["labels"][:, 1:] != IGNORE_INDEX).nonzero().numpy().T
        position = place + 1
        tokens = ProbedTokens(
            example=numbers[row].astype(np.int32),
            position=position.astype(np.int32),
            token=made["input_ids"].numpy()[row, position].astype(np.int32),
            weight=made["loss_weights"].numpy()[row, position],
            loss=losses.cpu().numpy(),
            rank=ranks.cpu().numpy().astype(np.int32),
            top_ids=top_ids.cpu().numpy().astype(np.int32),
            top_logprobs=top_logprobs.cpu().numpy(),
        )
        _check_finite(tokens)
        return tokens


def batches_of(
    lengths: npt.NDArray[np.int64], *, batch_size: int, max_tokens: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield which examples share a batch, longest first, so that too little memory shows at once.

    Args:
        lengths: (examples,) tokens of each.
        batch_size: Examples of a batch at most.
        max_tokens: Positions of a batch at most, padding counted.

    Example:
        >>> lengths = np.array([3, 9, 4, 2])
        >>> [places.tolist() for places in batches_of(lengths, batch_size=2, max_tokens=8)]
        [[1], [2, 0], [3]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        fit = max(1, min(batch_size, max_tokens // int(lengths[order[start]])))
        yield order[start : start + fit]
        start += fit


@torch.no_grad()
def token_predictions(
    model: PreTrainedModel, batch: dict[str, Tensor], *, top_k: int, chunk_head: bool = False
) -> tuple[Tensor, ...]:
    """Run a model and tell of each token with a label how it was predicted.

    Args:
        model: A causal language model; left in the mode it was in.
        batch: As `PaddedCollator` makes it, on any device.
        top_k: How many of the likeliest tokens to return; the vocabulary's size at most.
        chunk_head: As `supervised_token_losses` takes it.

    Returns:
        For the n tokens that have a label and one before them, in reading order: the loss in nats,
        float32 (n,); the rank, int64 (n,): how many logits are greater than the token's own; and
        the likeliest tokens, int64 (n, k), with their log-probabilities, float32 (n, k). Of tokens
        with the same logit the lower id comes first.
    """

    def step(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        own = logits.gather(1, targets[:, None])
        ranks = (logits > own).sum(dim=1)  # of logits as they are: log-softmax rounds
        top = _top(logits, min(top_k, logits.shape[1]))
        logprobs = logits.float().log_softmax(dim=1)
        losses = -logprobs.gather(1, targets[:, None])[:, 0]
        return losses, ranks, top, logprobs.gather(1, top)

    device = model.device
    was_training = model.training
    model.eval()
    try:
        return at_supervised(
            model,
            {name: values.to(device) for name, values in batch.items()},
            step,
            chunk_positions=max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size),
            chunk_head=chunk_head,
        )
    finally:
        model.train(was_training)


def _top(logits: Tensor, k: int) -> Tensor:
    """Return the ids (n, k) of the greatest logits (n, vocabulary), of equal ones the lower first.

    ``topk`` promises no order among equals, and a model in bfloat16 has many.
    """
    values, ids = logits.topk(min(k + 1, logits.shape[1]), dim=1)
    ids = _by_value(values, ids)
    if values.shape[1] > k:
        # some that are equal to the last one may not have been returned at all
        tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
        for row in tied.tolist():
            candidates = (logits[row] >= values[row, k - 1]).nonzero()[:, 0]
            order = logits[row, candidates].argsort(descending=True, stable=True)
            ids[row, :k] = candidates[order[:k]]
    return ids[:, :k]


def _by_value(values: Tensor, ids: Tensor) -> Tensor:
    """Sort ids by value, descending, then by id."""
    ids, order = ids.sort(dim=1)
    by_value = values.gather(1, order).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, by_value)


def _check(
    data: PreparedDataset, limit: int | None, *, batch_size: int, max_tokens: int, top_k: int
) -> int:
    """Check the settings and return how many examples to look at."""
    given = {"batch_size": batch_size, "max_tokens": max_tokens, "top_k": top_k}
    given |= {} if limit is None else {"limit": limit}
    for name, value in given.items():
        if value < 1:
            raise PolicyError(f"{name} is {value}; give 1 or more.")
    if not len(data):
        raise PreparedDataError(f"{data.folder} holds no example.", reason="no_examples")
    return len(data) if limit is None else min(limit, len(data))


def _check_finite(tokens: ProbedTokens) -> None:
    wrong = np.flatnonzero(~np.isfinite(tokens.loss))
    if len(wrong):
        first = int(wrong[0])
        raise LossmaskError(
            f"example {tokens.example[first]}, token {tokens.position[first]}: the loss is "
            f"{tokens.loss[first]}, so the model's logits are no numbers there. Load it in another "
            "type (--dtype float32), or look at its weights.",
            reason="loss_not_finite",
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise PolicyError(
            f"the device {name!r} cannot be used: {reason}. Give auto, cpu, cuda or cuda:1.",
            reason="no_device",
        ) from error
    return device


def _dtype(name: str) -> str:
    if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
        raise PolicyError(f"dtype is {name!r}; give auto, float32, bfloat16 or float16.")
    return name


def _hash(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _identity(model: str | Path | PreTrainedModel, network: PreTrainedModel) -> Any:
    """Return what tells this model from others: names, sizes and times of its files, or a commit.

    A model in memory is told by a hash of its weights.
    """
    if not isinstance(model, str | Path):
        digest = hashlib.sha256()
        for name, values in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()
    if not Path(model).exists():
        return [str(model), getattr(network.config, "_commit_hash", None)]
    files = sorted(path for path in Path(model).iterdir() if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
