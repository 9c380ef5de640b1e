"""Which tokens a model has learned already, and which carry the loss.

In: `ProbedTokens` that are in the loss. Out: kinds of tokens (ids) with their counts and losses.

* A kind is **learned at once** if it occurs at least `Learned.count` times, its mean loss is below
  `Learned.mean_loss`, and the model ranks it first at `Learned.first` of its places or more.
* The kinds that **carry the loss** are the fewest that together have `CARRIED` of it.

The loss of a set of tokens is that of training, ``sum(w * nll) / sum(|w|)``; shares of the loss are
shares of ``sum(|w| * nll)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.errors import PolicyError, PreparedDataError
from lossmask.probed_tokens import ProbedTokens

__all__ = [
    "Findings",
    "Learned",
    "PartLoss",
    "TokenKind",
    "by_difficulty",
    "find_learned",
    "ignore_setting",
    "mean_loss",
]

CARRIED = 0.8
"""Share of the loss that the tokens which carry it have together."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """When a kind of token counts as learned at once."""

    mean_loss: float = 0.05
    """Its mean loss is below this, in nats: on average the model gives it 95 % and more."""
    first: float = 0.95
    """It is the likeliest token in this share of its places, at least."""
    count: int = 5
    """It occurs so many times in the loss, at least."""

    def __post_init__(self) -> None:
        if not self.mean_loss > 0 or not 0 <= self.first <= 1 or self.count < 1:
            raise PolicyError(
                f"learned tokens of a mean loss below {self.mean_loss}, first in {self.first} of "
                f"{self.count} places: give a loss above 0, a share from 0 to 1, and 1 or more."
            )


@dataclass(frozen=True, slots=True)
class TokenKind:
    """All places of one token id in the loss."""

    token: int
    count: int
    mean_loss: float
    """Nats, each place counted alike."""
    first: float
    """Share of its places at which the model ranks it first."""
    loss_share: float
    """Of the whole loss, from 0 to 1."""
    is_stop: bool


@dataclass(frozen=True, slots=True)
class PartLoss:
    """The tokens of a part that are in the loss."""

    tokens: int
    loss: float
    first: float
    """Share that the model ranks first."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a probe found out about the tokens in the loss."""

    tokens: int
    """In the loss, and predicted."""
    loss: float
    """Of all of them."""
    first: float
    """Share that the model ranks first."""
    parts: Mapping[str, PartLoss]
    """By what tokens are part of."""
    learned: tuple[TokenKind, ...]
    """Learned at once, the most frequent first."""
    learned_tokens: int
    """How many tokens these are."""
    learned_loss_share: float
    """Of the whole loss."""
    loss_without: float | None
    """Of all the others; None if there are none."""
    carrying: tuple[TokenKind, ...]
    """The fewest kinds that have `CARRIED` of the loss, the greatest share first."""
    carrying_kinds_of: int
    """How many kinds there are."""
    carried_by: float
    """Share of the tokens that have `CARRIED` of the loss: the fewest, place by place."""
    criterion: Learned

    def to_mapping(self, text_of: Callable[[int], str]) -> dict[str, Any]:
        """Return them as plain data, each kind of token with the text that it spells."""
        plain = asdict(self)
        for name in ("learned", "carrying"):
            plain[name] = [{"text": text_of(kind["token"]), **kind} for kind in plain[name]]
        return plain


def find_learned(
    probed: ProbedTokens,
    *,
    criterion: Learned | None = None,
    stop_ids: Collection[int] = (),
    parts: npt.NDArray[Any] | None = None,
) -> Findings:
    """Tell which tokens in the loss are learned already and which carry it.

    Args:
        probed: The tokens; those of weight 0 are left out.
        criterion: When a kind is learned.
        stop_ids: Tokens at which inference ends a turn.
        parts: (n,) str: what each token is part of; by default ``stop`` and ``answer``.

    Raises:
        PreparedDataError: None of the tokens is in the loss.
    """
    in_loss = probed.weight != 0
    tokens = probed.taken(in_loss)
    if not len(tokens):
        raise PreparedDataError(
            "none of the tokens probed is in the loss.", reason="no_supervised_token"
        )
    criterion = criterion or Learned()
    if parts is None:
        names = np.where(np.isin(tokens.token, list(stop_ids)), "stop", "answer")
    else:
        names = parts[in_loss]
    kinds = _kinds(tokens, frozenset(stop_ids))
    learned = [each for each in kinds if _is_learned(each, criterion)]
    learned.sort(key=lambda each: (-each.count, each.token))
    is_learned = np.isin(tokens.token, [each.token for each in learned])
    sizes = _sizes(tokens)
    return Findings(
        tokens=len(tokens),
        loss=mean_loss(tokens),
        first=float((tokens.rank == 0).mean()),
        parts={
            str(name): _part(tokens.taken(names == name)) for name in sorted(set(names.tolist()))
        },
        learned=tuple(learned),
        learned_tokens=int(is_learned.sum()),
        learned_loss_share=float(sizes[is_learned].sum() / (sizes.sum() or 1)),
        loss_without=None if is_learned.all() else mean_loss(tokens.taken(~is_learned)),
        carrying=tuple(_carrying(kinds)),
        carrying_kinds_of=len(kinds),
        carried_by=_fewest(np.sort(sizes)[::-1], CARRIED) / len(tokens),
        criterion=criterion,
    )


def mean_loss(tokens: ProbedTokens) -> float:
    """Return ``sum(w * nll) / sum(|w|)``."""
    weights = tokens.weight.astype(np.float64)
    return float((weights * tokens.loss).sum() / np.abs(weights).sum())


def by_difficulty(probed: ProbedTokens) -> list[int]:
    """Return the numbers of the examples, that of the greatest mean loss in the loss first."""
    in_loss = probed.taken(probed.weight != 0)
    numbers, place = np.unique(in_loss.example, return_inverse=True)
    means = np.bincount(place, in_loss.loss) / np.bincount(place)
    ordered: list[int] = numbers[np.argsort(-means, kind="stable")].tolist()
    return ordered


def ignore_setting(
    learned: Iterable[TokenKind], policy: Mapping[str, Any] | None = None
) -> str | None:
    """Return the value of ``-p`` with which ``lossmask prepare`` leaves tokens out by chance.

    Args:
        learned: The kinds.
        policy: That of the prepared data, whose own tokens to ignore stay.

    Returns:
        ``ignore=[...]``, or None if there is nothing to add.

    Example:
        >>> ignore_setting([TokenKind(7, 9, 0.01, 1.0, 0.002, False)], {"ignore": ["Yes"]})
        'ignore=["Yes", 7]'
    """
    before = list((policy or {}).get("ignore", ()))
    new = sorted({each.token for each in learned} - set(before))
    return f"ignore={json.dumps([*before, *new], ensure_ascii=False)}" if new else None


def _kinds(tokens: ProbedTokens, stop_ids: frozenset[int]) -> list[TokenKind]:
    ids, kind = np.unique(tokens.token, return_inverse=True)
    counts = np.bincount(kind)
    losses = np.bincount(kind, tokens.loss) / counts
    firsts = np.bincount(kind, tokens.rank == 0) / counts
    sizes = np.bincount(kind, _sizes(tokens))
    shares = sizes / (sizes.sum() or 1)
    return [
        TokenKind(token, count, loss, first, share, token in stop_ids)
        for token, count, loss, first, share in zip(
            ids.tolist(),
            counts.tolist(),
            losses.tolist(),
            firsts.tolist(),
            shares.tolist(),
            strict=True,
        )
    ]


def _sizes(tokens: ProbedTokens) -> Floats:
    return np.abs(tokens.weight.astype(np.float64)) * tokens.loss


def _is_learned(kind: TokenKind, criterion: Learned) -> bool:
    return (
        kind.count >= criterion.count
        and kind.mean_loss < criterion.mean_loss
        and kind.first >= criterion.first
    )


def _part(tokens: ProbedTokens) -> PartLoss:
    return PartLoss(len(tokens), mean_loss(tokens), float((tokens.rank == 0).mean()))


def _carrying(kinds: Sequence[TokenKind]) -> list[TokenKind]:
    ordered = sorted(kinds, key=lambda each: (-each.loss_share, each.token))
    return ordered[: _fewest(np.array([each.loss_share for each in ordered]), CARRIED)]


def _fewest(descending: Floats, share: float) -> int:
    """Return how many of the greatest make up a share of the sum; 0 where the sum is 0."""
    sums = np.cumsum(descending)
    return int(np.searchsorted(sums, share * sums[-1])) + 1 if sums[-1] > 0 else 0
