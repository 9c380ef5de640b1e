"""The ids of a tokenizer, computed by ``fastokens`` where that is proven to give the same.

In: a tokenizer. Out: a :class:`FastBackend`, or why there is none. ``fastokens`` (extra ``fast``)
is another implementation of the same file format, some forty times faster. It is used only

* if it gives the tokenizer's own ids for :func:`probe_texts`: every added token, every kind of
  character and white space, and what pre-tokenizers are known to disagree about. That is found out
  once per tokenizer and versions, and remembered beside the proofs of templates;
* and as long as it does: some texts of every run are encoded by both (:meth:`FastBackend.encode`),
  and one difference ends it with :class:`BackendDiffers`, which is remembered, too.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lossmask.errors import BackendDiffers
from lossmask.remembered import recall, remember
from lossmask.sampling import is_sampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]
Bounds = npt.NDArray[np.int64]

_ONE_IN = 1021  # texts of a run that are encoded by both
_PROBE_FORMAT = 1
_STEP_OF_CODE_POINTS = 5


class FastBackend:
    """Encodes texts like the tokenizer that it was made of, faster.

    Args:
        tokenizer: A tokenizer that :func:`fast_backend` has proven.
        native: Its ``fastokens`` twin.
        key: Of what is remembered about both.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, native: Any, key: str) -> None:
        self._tokenizer = tokenizer
        self._native = native
        self._key = key

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Bounds]:
        """Encode texts, without special tokens.

        Args:
            texts: k texts, valid Unicode.

        Returns:
            int32 (n,), the ids of all texts end to end; int64 (k + 1,), where each text begins.

        Raises:
            BackendDiffers: The tokenizer gives other ids for one of them.
        """
        ids, bounds = self._encode(texts)
        for number, text in enumerate(texts):
            if is_sampled(text, _ONE_IN):
                try:
                    self.check(text, ids[bounds[number] : bounds[number + 1]])
                except BackendDiffers as error:
                    remember("backends", self._key, {"why_not": error.detail})
                    raise
        return ids, bounds

    def check(self, text: str, ids: Ids) -> None:
        """Hold ids against those of the tokenizer.

        Raises:
            BackendDiffers: They are others.
        """
        expected = reference_ids(self._tokenizer, [text])[0]
        if np.array_equal(ids, expected):
            return
        shared = min(len(ids), len(expected))
        differs = np.flatnonzero(ids[:shared] != expected[:shared])
        at = int(differs[0]) if differs.size else shared
        raise BackendDiffers(
            f"fastokens gives other ids than the tokenizer, from token {at} on: "
            f"{ids[at : at + 4].tolist()} instead of {expected[at : at + 4].tolist()}, in a text "
            f"that begins with {text[:40]!r}; it is not used for this tokenizer"
        )

    def _encode(self, texts: Sequence[str]) -> tuple[Ids, Bounds]:
        ids, bounds = self._native.encode_batch_flat(list(texts), False)
        return np.frombuffer(ids, np.int32), np.frombuffer(bounds, np.int64)

    def prove(self) -> None:
        """Hold it against the tokenizer on all probes.

        Raises:
            BackendDiffers: It gives other ids for one of them.
        """
        texts = list(probe_texts(self._tokenizer))
        ids, bounds = self._encode(texts)
        for number, expected in enumerate(reference_ids(self._tokenizer, texts)):
            own = ids[bounds[number] : bounds[number + 1]]
            if not np.array_equal(own, expected):
                self.check(texts[number], own)


def fast_backend(tokenizer: PreTrainedTokenizerBase, *, prove: bool = True) -> FastBackend | str:
    """Return the fast backend of a tokenizer, or why there is none.

    Proving takes about a second for a large vocabulary, and threads; that it was proven is
    remembered on disk.

    Args:
        tokenizer: Any tokenizer.
        prove: Whether to prove it where nothing is remembered.
    """
    native_class = _fastokens()
    if native_class is None:
        return "fastokens is not installed (pip install 'lossmask[fast]')"
    if not tokenizer.is_fast:
        return f"a {type(tokenizer).__name__} has no tokenizer.json"
    source = tokenizer.backend_tokenizer.to_str()
    key = _key(tokenizer, source)
    known = recall("backends", key)
    if known is not None and known["why_not"]:
        return str(known["why_not"])
    if known is None and not prove:
        return "nothing has proven it yet"
    why_not = ""
    try:
        native = native_class.from_json_str(source)
        native.no_truncation()
        native.no_padding()
        backend = FastBackend(tokenizer, native, key)
        if known is None:
            backend.prove()
    except BackendDiffers as error:
        why_not = error.detail
    except Exception as error:  # native code: whatever it cannot read, the tokenizer itself can
        why_not = f"fastokens does not read this tokenizer: {error}"
    if known is None:
        remember("backends", key, {"why_not": why_not})
    return why_not or backend


def reference_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Return the tokenizer's own ids of each text, without special tokens."""
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]


def probe_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield texts on which implementations of a tokenizer differ, if they do anywhere."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    yield from added
    yield from (f"a {token} b{token}\n{token}{token} \t{token}c" for token in added)
    yield from _TEXTS
    yield from (f"{a}{b}{c}" for a in _PIECES for b in _SPACES for c in _PIECES)
    yield from _characters()
    names = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    chosen = names[:: max(1, len(names) // 4000)]
    text = tokenizer.convert_tokens_to_string(chosen)
    yield from (text[at : at + 500] for at in range(0, len(text), 500))


def _characters() -> Iterator[str]:
    """Yield characters of every kind, alone, doubled and beside letters."""
    code_points = [*range(0x3100), *range(0x3100, 0x20000, _STEP_OF_CODE_POINTS), 0xE0001, 0x10FFFD]
    valid = [chr(point) for point in code_points if not 0xD800 <= point < 0xE000]
    for at in range(0, len(valid), 64):
        group = valid[at : at + 64]
        yield "".join(group)
        yield " ".join(f"{character}{character}a" for character in group)
        yield "".join(f"1{character}" for character in group)


_SPACES = (
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    " \n ",
    "\t",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\u2028",
)
_PIECES = (
    "a",
    "Zb",
    "'s",
    "'LL",
    "12345",
    "3",
    "!?",
    "_",
    "é",
    "e\u0301",
    "你好",
    "🙂",
    "</x>",
    '{"',
)
_TEXTS = (
    "",
    " ",
    "   \n\n\n\t  ",
    "I'm you're WE'LL they'd it's o'clock ''quoted'' rock'n'roll 'tis",
    "1 12 123 1234 12345 123456 1,234.5678 0x1F 1e-9 ½ ² Ⅳ ٣٤ १२",
    "def f(x):\n    return {\n\t'a': [1, 2],\r\n    }\n\n\n# end  \n",
    "AaBb camelCase HTTPServer snake_case SCREAMING_CASE ǅ ŉ ß İstanbul ﬁ",
    "مرحبا بالعالم שלום עולם ภาษาไทย हिन्दी ไม่ 한국어 日本語テキスト 中文，标点。",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 e\u0301\u0323 Å a\u0308\u0304 \ufeff\ufffd\u2060",
    "https://example.org/a?b=c&d=%20#e mail@example.org C:\\path\\file.txt",
    "a" * 300 + " " * 300 + "\n" * 100 + "!" * 100 + "é" * 100,
    "\x00\x01\x7f\x80\x9f\xad end",
    "<|unknown|> <unk> [INST] </s> <s> <pad> ▁ Ġ Ċ ##a a</w>",
)


def _fastokens() -> Any:
    try:
        from fastokens import Tokenizer
    except ImportError:
        return None
    return Tokenizer


def _key(tokenizer: PreTrainedTokenizerBase, source: str) -> str:
    """Return a hash of the tokenizer and of all that its ids depend on.

    ``tokenizer.json`` does not say whether special tokens are found in text.
    """
    kind = type(tokenizer)
    parts = [str(_PROBE_FORMAT), sys.version.split()[0], unicodedata.unidata_version]
    parts += [kind.__module__, kind.__qualname__, str(tokenizer.split_special_tokens)]
    parts += [str(tokenizer.backend_tokenizer.encode_special_tokens)]
    for name in ("lossmask", "fastokens", "tokenizers", "transformers"):
        try:
            parts.append(version(name))
        except PackageNotFoundError:
            parts.append("?")
    return hashlib.sha256("\n".join([*parts, source]).encode()).hexdigest()
