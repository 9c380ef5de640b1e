"""TRL's ``DataCollatorForCompletionOnlyLM``, which TRL removed in 0.20, and one that ignores more.

Same arguments and the same tensors as in TRL 0.19 wherever those were right. What differs:

* Markers are found in what the ids spell, so a tokenizer that merges a marker with its neighbours
  cannot hide it. Several markers of either kind may be given, and turns of one kind may follow each
  other.
* A row without a marker is an error that names it; TRL warned and masked the whole row.
* Padding is masked by position, never by pad id: with pad = eos the eos stays in the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import BatchEncoding, PreTrainedTokenizerBase

from lossmask.compat.marked_ids import MarkedIds, Straddling, TokenMarker
from lossmask.errors import InputError, PolicyError
from lossmask.example import IGNORE_INDEX

_IN_VAIN = frozenset(  # options in TRL that only masked language modelling reads
    ("mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask", "seed")
)
_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
_SAMPLE_COLUMN = "row"

Columns = dict[str, npt.NDArray[np.int64]]


class DataCollatorForCompletionOnlyLM:
    r"""Pad rows of ids; the loss is on what follows the response markers.

    Args:
        response_template: What stands before a response: a string, a list of token ids, or a list
            of either.
        instruction_template: What stands before any other turn; None: the loss is on all that
            follows the last response marker.
        args: The tokenizer, if it is not given by name.
        mlm: Has to be False.
        ignore_index: Label of what is out of the loss.
        padding_free: Return all rows as one, without padding: ``position_ids`` begin anew in each
            row, and its first label is out of the loss; ``cu_seq_lens_q``, ``max_length_q`` and so
            on for flash attention.
        straddling: What becomes of a token that is part marker, part response: ``exclude`` (out of
            the loss), ``include`` or ``error``.
        kwargs: ``tokenizer`` or ``processing_class``; ``pad_to_multiple_of``; ``return_tensors``,
            ``"pt"`` or ``"np"``.

    Raises:
        PolicyError: An argument is unknown, missing, or of the wrong kind.
        TokenizerError: It cannot be told what the tokens spell.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> from lossmask.encoder import load_tokenizer
        >>> tokenizer = load_tokenizer(DEMO_MODEL)
        >>> collate = DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer)
        >>> batch = collate([tokenizer("Q: ok? A: no")])
        >>> tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
        ' no'
    """

    def __init__(
        self,
        response_template: TokenMarker,
        instruction_template: TokenMarker | None = None,
        *args: Any,
        mlm: bool = False,
        ignore_index: int = IGNORE_INDEX,
        padding_free: bool = False,
        straddling: Straddling = "exclude",
        **kwargs: Any,
    ) -> None:
        self.tokenizer = _tokenizer_of(args, kwargs)
        self.pad_to_multiple_of = kwargs.pop("pad_to_multiple_of", None)
        self.return_tensors = kwargs.pop("return_tensors", "pt")
        _check_options(mlm, self.return_tensors, kwargs)
        self.mlm = mlm
        self.response_template = response_template
        self.instruction_template = instruction_template
        self.ignore_index = ignore_index
        self.padding_free = padding_free
        self._marked = MarkedIds(
            self.tokenizer, response_template, instruction_template, straddling=straddling
        )

    def __call__(self, examples: Sequence[Any], return_tensors: str | None = None) -> BatchEncoding:
        """Collate a batch.

        Args:
            examples: Lists of ids, or mappings with ``input_ids`` and, where a row holds padding
                already, ``attention_mask``; ``labels`` are made anew.
            return_tensors: ``"pt"`` or ``"np"`` instead of what the collator was made with.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels``, int64 of shape (rows, length), and
            ``token_type_ids`` if the rows have them; padding-free: (1, tokens), with
            ``position_ids`` and lengths instead of ``attention_mask``.

        Raises:
            InputError: A marker is absent, nothing follows any, or a row cannot be told from its
                padding.
        """
        if not examples:
            raise InputError("a batch needs at least one example", reason="empty_batch")
        rows = [self._row(example, place) for place, example in enumerate(examples)]
        if len({tuple(row) for row in rows}) > 1:
            raise InputError(f"rows of one batch have different columns: {list(map(list, rows))}")
        batch = self._flat(rows) if self.padding_free else self._padded(rows)
        return _as_tensors(batch, return_tensors or self.return_tensors)

    def torch_call(self, examples: Sequence[Any]) -> BatchEncoding:
        """Collate a batch into torch tensors."""
        return self(examples, return_tensors="pt")

    def numpy_call(self, examples: Sequence[Any]) -> BatchEncoding:
        """Collate a batch into NumPy arrays."""
        return self(examples, return_tensors="np")

    def _row(self, example: Any, place: int) -> Columns:
        """Return the columns of one row, each of shape (tokens,), with its labels."""
        name = f"example {place} of the batch"
        columns = _columns(example, name)
        ids, mask = columns["input_ids"], columns.get("attention_mask")
        if mask is None:
            _check_no_padding(ids, self.tokenizer, name)
            mask = columns["attention_mask"] = np.ones_like(ids)
        real = np.flatnonzero(mask)
        kept = real[self._in_loss(ids[real], name, example)]
        columns["labels"] = np.full_like(ids, self.ignore_index)
        columns["labels"][kept] = ids[kept]
        return columns

    def _in_loss(
        self, ids: npt.NDArray[np.int64], name: str, example: Any
    ) -> npt.NDArray[np.bool_]:
        """Return which tokens of a row are in the loss."""
        return self._marked.responses(ids, name)

    def _padded(self, rows: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
        length = max(len(row["input_ids"]) for row in rows)
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        if any(len(row["input_ids"]) < length for row in rows):
            _check_can_pad(self.tokenizer)
        fills = {
            "input_ids": self.tokenizer.pad_token_id or 0,
            "attention_mask": 0,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "labels": self.ignore_index,
        }
        batch = {}
        for name in rows[0]:
            batch[name] = np.full((len(rows), length), fills[name], np.int64)
            for place, row in enumerate(rows):
                size = len(row[name])
                at = length - size if self.tokenizer.padding_side == "left" else 0
                batch[name][place, at : at + size] = row[name]
        return batch

    def _flat(self, rows: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
        real = [np.flatnonzero(row["attention_mask"]) for row in rows]
        lengths = np.array([len(places) for places in real])
        batch: dict[str, npt.NDArray[Any]] = {
            name: np.concatenate([row[name][at] for row, at in zip(rows, real, strict=True)])[None]
            for name in rows[0]
            if name != "attention_mask"
        }
        batch["position_ids"] = np.concatenate([np.arange(n) for n in lengths])[None]
        batch["labels"][batch["position_ids"] == 0] = self.ignore_index
        borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)[None]
        longest = np.array([lengths.max()])
        return {
            **batch,
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_k": longest,
            "max_length_q": longest,
        }


class DataCollatorWithIgnoredTokens(DataCollatorForCompletionOnlyLM):
    r"""As its parent, but some tokens are out of the loss most of the time.

    Tokens that any model predicts at once (``</s>`` and ``\n`` after YES or NO) make the loss look
    small and drown those that matter. Each of them is taken out with a probability; which, depends
    on the seed, the epoch and the row alone, not on the batch. The row is the number in the column
    ``row``, or else what the ids are.

    Args:
        response_template: As in the parent.
        instruction_template: As in the parent.
        args: As in the parent.
        ignore_token_ids: The tokens.
        ignore_tokens_mask_prob: How often each occurrence is taken out of the loss, 0 to 1.
        seed: Another seed makes other draws.
        kwargs: As in the parent.

    Attributes:
        epoch: Set it by :meth:`set_epoch` to draw anew.

    Raises:
        PolicyError: Also if the probability lies outside of 0 to 1.
    """

    def __init__(
        self,
        response_template: TokenMarker,
        instruction_template: TokenMarker | None = None,
        *args: Any,
        ignore_token_ids: Collection[int],
        ignore_tokens_mask_prob: float = 0.8,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(response_template, instruction_template, *args, **kwargs)
        if not 0 <= ignore_tokens_mask_prob <= 1:
            raise PolicyError(
                f"ignore_tokens_mask_prob is {ignore_tokens_mask_prob}; give a probability, 0 to 1"
            )
        self.ignore_token_ids = np.array(sorted(ignore_token_ids), np.int64)
        self.ignore_tokens_mask_prob = ignore_tokens_mask_prob
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw anew in another epoch."""
        self.epoch = epoch

    def _in_loss(
        self, ids: npt.NDArray[np.int64], name: str, example: Any
    ) -> npt.NDArray[np.bool_]:
        kept = super()._in_loss(ids, name, example)
        may_go = kept & np.isin(ids, self.ignore_token_ids)
        if may_go.sum() == kept.sum():
            raise InputError(
                f"all of the response of {name} is in ignore_token_ids: nothing else is to be "
                "learned from it",
                reason="nothing_to_train",
            )
        draws = np.random.default_rng([self.seed, self.epoch, _row_number(ids, example)])
        goes = draws.random(len(ids)) < self.ignore_tokens_mask_prob
        return np.asarray(kept & ~(may_go & goes))


def _row_number(ids: npt.NDArray[np.int64], example: Any) -> int:
    """Return the number of a row, told by its ids if it has none."""
    if isinstance(example, Mapping) and _SAMPLE_COLUMN in example:
        return int(example[_SAMPLE_COLUMN])
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")


def _tokenizer_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Take the tokenizer out of the arguments."""
    given = list(args)
    given += [kwargs.pop(name) for name in ("tokenizer", "processing_class") if name in kwargs]
    if len(given) != 1:
        raise PolicyError(
            f"expected one tokenizer, as tokenizer= or processing_class=, got {len(given)}"
        )
    return getattr(given[0], "tokenizer", given[0])  # a processor holds one


def _check_options(mlm: bool, return_tensors: str, kwargs: Mapping[str, Any]) -> None:
    if mlm:
        raise PolicyError("mlm is True; completions are trained by causal language modelling only")
    _check_kind(return_tensors)
    unknown = sorted(kwargs.keys() - _IN_VAIN)
    if unknown:
        raise PolicyError(f"unknown argument {unknown[0]!r}")


def _check_kind(return_tensors: str) -> None:
    if return_tensors not in ("pt", "np"):
        raise PolicyError(f"return_tensors is {return_tensors!r}; give 'pt' or 'np'")


def _columns(example: Any, name: str) -> Columns:
    """Return ids, and mask and token types where there are some, as arrays of one length."""
    given = example if isinstance(example, Mapping) else {"input_ids": example}
    if "input_ids" not in given:
        raise InputError(f"{name} has no 'input_ids'; it has {sorted(given)}", reason="missing_key")
    columns = {key: np.array(given[key], np.int64) for key in _COLUMNS if key in given}
    ids = columns["input_ids"]
    if ids.ndim != 1 or not len(ids):
        raise InputError(f"{name} has input_ids of shape {ids.shape}; expected (tokens,)")
    for key, values in columns.items():
        if values.shape != ids.shape:
            raise InputError(f"{name} has {len(ids)} input_ids and {key} of shape {values.shape}")
    return columns


def _check_no_padding(
    ids: npt.NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """Refuse ids that look padded where no attention mask says which are padding."""
    pad = tokenizer.pad_token_id
    if pad is None:
        return
    ends_turns = pad in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    for two in (ids[:2], ids[:-3:-1]):
        if two[0] == pad and (not ends_turns or (len(two) == 2 and two[1] == pad)):
            raise InputError(
                f"{name} begins or ends with the pad token {tokenizer.pad_token!r} and has no "
                "attention_mask: it cannot be told from padding; give the attention_mask",
                reason="maybe_padding",
            )


def _check_can_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        raise PolicyError(
            "the tokenizer has no pad token; set tokenizer.pad_token = tokenizer.eos_token: "
            "nothing is masked by it"
        )


def _as_tensors(batch: Mapping[str, npt.NDArray[Any]], return_tensors: str) -> BatchEncoding:
    _check_kind(return_tensors)
    if return_tensors == "np":
        return BatchEncoding(dict(batch))
    import torch  # only who wants its tensors has to have it

    return BatchEncoding({name: torch.from_numpy(values) for name, values in batch.items()})
