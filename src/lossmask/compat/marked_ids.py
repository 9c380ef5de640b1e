r"""Token ids + markers -> which of the tokens are responses.

In: ids alone, as a collator gets them. Out: True for the tokens that stand behind a response
marker. The marker's own ids are not searched for: next to other text it may be tokenized otherwise.
What the ids spell is searched for what the marker spells, byte by byte::

    spelled    … M  e ?\n\n  ###   Assistant :  Yes        marker: \n\n### Assistant:
    in ids     … M  e  [?\n\n]  ###  …                     [\n\n] ### …: not found
    in bytes           ?<------------------->Yes           found

A special token (``<|im_start|>``) is one symbol that no text spells, so that what a user typed is
never taken for a marker made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from lossmask.errors import PolicyError, TokenizerError
from lossmask.markers import (
    check_present,
    empty_response,
    find_markers,
    responses_between,
)
from lossmask.policy import nearest
from lossmask.spelling import NOTHING_SPELLS, Spelling, spellings_to_try

Straddling = Literal["exclude", "include", "error"]
TokenMarker = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
"""A marker as text or as ids, or several of them."""

_PROBE = "Ab c: un-believably tail 12"
_FIRST_SYMBOL = 0x100  # characters below stand for bytes
_SPACE = " \t\n\r\f\v"
_SHOWN = 60


class MarkedIds:
    """Finds responses in ids, for one tokenizer and one set of markers.

    Args:
        tokenizer: Made the ids.
        response_template: What stands before a response.
        instruction_template: What stands before any other turn; None: only the last response
            counts, to the end.
        straddling: What becomes of a token that holds the end of a marker and the beginning of the
            response: out of the loss, in it, or an error.

    Raises:
        PolicyError: A marker is empty, or a response's and an instruction's at once, or
            ``straddling`` is none of the three.
        TokenizerError: It cannot be told what the tokens spell, or a marker has unknown ones.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        response_template: TokenMarker,
        instruction_template: TokenMarker | None = None,
        *,
        straddling: Straddling = "exclude",
    ) -> None:
        if straddling not in get_args(Straddling):
            raise PolicyError(
                f"straddling is {straddling!r}; {nearest(str(straddling), get_args(Straddling))}"
            )
        self._tokenizer = tokenizer
        self._straddling = straddling
        self._spelling = _spelling_of(tokenizer)
        self._added = tokenizer.added_tokens_decoder
        self._special = frozenset(map(str, tokenizer.all_special_tokens))
        self._symbols = _Symbols(self._symbols_of)
        self._responses = self._markers(response_template, "response_template")
        self._instructions = (
            {}
            if instruction_template is None
            else self._markers(instruction_template, "instruction_template")
        )
        for symbols in self._responses.keys() & self._instructions.keys():
            shown = self._responses[symbols]
            raise PolicyError(f"{shown!r} is a response marker and an instruction marker")

    def responses(self, ids: Sequence[int] | npt.NDArray[Any], row: str) -> npt.NDArray[np.bool_]:
        """Return which tokens are responses.

        Args:
            ids: (n,), without padding.
            row: What errors call these ids (``example 3 of the batch``).

        Returns:
            Bool (n,), at least one of them True.

        Raises:
            InputError: A marker is absent (``marker_absent``), nothing stands behind any
                (``empty_response``).
            TokenizerError: ``straddling="error"`` and a token is part marker, part response.
        """
        pieces = [self._symbols[token] for token in np.asarray(ids).tolist()]
        text = "".join(pieces)
        where = f"{row}, which begins {self._shown(ids)!r}"
        found = find_markers(text, list(self._responses), list(self._instructions))
        names = list(self._responses.values()), list(self._instructions.values())
        check_present(found, *names, where)
        mask = np.zeros(len(pieces), np.bool_)
        bounds = np.cumsum([0, *map(len, pieces)])
        for start, end in responses_between(found, len(text), take_last=not self._instructions):
            first, behind = self._tokens_of(text, bounds, start, end, where)
            mask[first:behind] = True
        if not mask.any():
            raise empty_response(where)
        return mask

    def _tokens_of(
        self, text: str, bounds: npt.NDArray[np.int64], start: int, end: int, where: str
    ) -> tuple[int, int]:
        """Return the interval of the tokens of one response."""
        first = int(np.searchsorted(bounds[:-1], start))
        if first and bounds[first - 1] < start < bounds[first]:
            if self._straddling == "error":
                token = _readable(text[bounds[first - 1] : bounds[first]])
                raise TokenizerError(
                    f"the token {token!r} is part marker, part response in {where}; "
                    'straddling="exclude" or "include" decides about it',
                    reason="boundary_straddle",
                )
            if self._straddling == "include":
                first -= 1
            else:
                while first < len(bounds) - 1 and _continues(
                    text[bounds[first] : bounds[first] + 1]
                ):
                    first += 1  # the rest of a character that is left out
        behind = int(np.searchsorted(bounds[:-1], end))
        cut = int(bounds[behind - 1])
        if bounds[behind] > end and not text[cut:end].strip(_SPACE):
            outside = text[end : bounds[behind]].strip(_SPACE)
            behind -= bool(outside)  # its first visible character is the next marker's
        return first, behind

    def _markers(self, given: TokenMarker, name: str) -> dict[str, str]:
        """Return what each marker spells, with the name to show for it."""
        markers: dict[str, str] = {}
        for marker in _several(given, name):
            if isinstance(marker, str):
                symbols, shown = self._symbols_of_text(marker), marker
            else:
                symbols = "".join(self._symbols[int(token)] for token in marker)
                shown = self._shown(marker)
            if not symbols:
                raise PolicyError(f"{name} holds {marker!r}, which has no tokens")
            markers[symbols] = shown
        return markers

    def _symbols_of_text(self, marker: str) -> str:
        """Return what a marker spells, without the dummy space that begins a text."""
        ids = self._tokenizer(marker, add_special_tokens=False, verbose=False)["input_ids"]
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in ids and self._tokenizer.unk_token not in marker:
            raise TokenizerError(
                f"the tokenizer does not know all of the marker {marker!r}", reason="unknown_token"
            )
        symbols = "".join(self._symbols[token] for token in ids)
        is_dummy = len(symbols) - len(symbols.lstrip(" ")) > len(marker) - len(marker.lstrip(" "))
        return symbols[1:] if is_dummy else symbols

    def _symbols_of(self, token: int) -> str:
        """Return a character for each byte that a token spells, or one for a special token."""
        added = self._added.get(token)
        if token == self._tokenizer.unk_token_id:
            return chr(_FIRST_SYMBOL + token)
        if added is not None:
            is_special = added.special or str(added) in self._special
            return chr(_FIRST_SYMBOL + token) if is_special else _latin(str(added).encode())
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            raise TokenizerError(f"the tokenizer has no token {token}", reason="unknown_token")
        return _latin(self._spelling.bytes_of(name))

    def _shown(self, ids: Sequence[Any] | npt.NDArray[Any]) -> str:
        text = str(self._tokenizer.decode([int(token) for token in ids[:_SHOWN]]))
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class _Symbols(dict[int, str]):
    """Token -> the characters that stand for what it spells; found out when first asked for."""

    def __init__(self, find: Callable[[int], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, token: int) -> str:
        symbols = self[token] = self._find(token)
        return symbols


def _several(given: TokenMarker, name: str) -> Sequence[str | Sequence[int]]:
    """Return markers as a list, whether one or several are given."""
    if isinstance(given, str):
        found: list[Any] = [given]
    else:
        found = list(given)
        if found and isinstance(found[0], int | np.integer):
            found = [found]
    if not found or not all(isinstance(each, str) or len(each) for each in found):
        raise PolicyError(f"{name} is {given!r}; give a string or token ids, not empty")
    if "" in found:
        raise PolicyError(f"{name} holds ''; a marker has to have characters")
    return found


def _spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Return how a tokenizer spells; for a slow one, the first way that comes out right."""
    spellings = spellings_to_try(tokenizer)
    if len(spellings) == 1:
        return spellings[0]
    names = tokenizer.convert_ids_to_tokens(
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    )
    for spelling in spellings:
        spelled = b"".join(spelling.bytes_of(name) for name in names)
        if NOTHING_SPELLS not in spelled and _squeezed(spelled.decode()) == _squeezed(_PROBE):
            return spelling
    raise TokenizerError(
        f"cannot tell what the tokens of this {type(tokenizer).__name__} spell",
        reason="unknown_token",
    )


def _latin(spelled: bytes) -> str:
    return spelled.decode("latin-1")


def _squeezed(text: str) -> str:
    return text.replace(" ", "").casefold()


def _continues(symbol: str) -> bool:
    """Return whether a byte continues a character of several bytes."""
    return bool(symbol) and 0x80 <= ord(symbol) < 0xC0


def _readable(symbols: str) -> str:
    known = [c if ord(c) < _FIRST_SYMBOL else "?" for c in symbols]
    return "".join(known).encode("latin-1").decode("utf-8", "replace")
