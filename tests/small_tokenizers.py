"""Tokenizers small enough to work their ids out by hand, one per way of relating to text.

Made with the ``tokenizers`` library in the test, vocabulary and merges given: no corpus needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

EOS = "<|end|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"()<>[]|/-_{}\n"
_GPT4_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(
    *merges: str,
    normalizer: normalizers.Normalizer | None = None,
    use_regex: bool = False,
    trim_offsets: bool = False,
    added: Sequence[AddedToken] = (),
) -> PreTrainedTokenizerBase:
    """Return a GPT-2-like tokenizer: a token per byte, and what the merges make of them.

    Args:
        merges: Like ``"? b"``, in GPT-2's alphabet (``Ġ`` is a space, ``Ċ`` a newline).
        normalizer: What is done to text first.
        use_regex: Whether to split text as GPT-2 does before merging.
        trim_offsets: Whether reported offsets leave white space out.
        added: Added tokens besides ``<|end|>``.
    """
    names = [*sorted(bytes_to_unicode().values()), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {name: number for number, name in enumerate(names)}
    pairs = [(merge.split(" ")[0], merge.split(" ")[1]) for merge in merges]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _wrapped(backend, added)


def trained_to_merge(text: str) -> PreTrainedTokenizerBase:
    """Return a Llama-3-like tokenizer whose merges are trained on a text."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_GPT4_SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    return _wrapped(backend, ())


def sentencepiece(
    *merges: str,
    prepend_scheme: str = "first",
    normalizer: normalizers.Normalizer | None = None,
    added: Sequence[AddedToken] = (),
) -> PreTrainedTokenizerBase:
    """Return a Llama-2-like tokenizer: ASCII characters, a dummy space, byte tokens for the rest.

    Args:
        merges: Like ``"▁ a"``.
        prepend_scheme: ``first``: a dummy space begins the text; ``always``: it also follows each
            added token; ``never``.
        normalizer: What is done to text first.
        added: Added tokens besides ``<|end|>``.
    """
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *_LETTERS]
    names += [merge.replace(" ", "") for merge in merges]
    vocabulary = {name: number for number, name in enumerate(names)}
    pairs = [(merge.split(" ")[0], merge.split(" ")[1]) for merge in merges]
    model = models.BPE(
        vocab=vocabulary, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    backend = Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(backend, added, unk_token="<unk>")


def unigram(*pieces: str) -> PreTrainedTokenizerBase:
    """Return a T5-like tokenizer: NFKC, words split at white space, the rest is unknown."""
    known = [*pieces, "▁", *_LETTERS.strip()]
    vocabulary = [("<unk>", 0.0)] + [(piece, -1.0 / len(piece)) for piece in known]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    return _wrapped(backend, (), unk_token="<unk>")


def wordpiece(*pieces: str) -> PreTrainedTokenizerBase:
    """Return a BERT-like tokenizer: lower-casing, accents stripped, unknown words."""
    names = ["[UNK]", *_LETTERS.strip(), *(f"##{c}" for c in _LETTERS if c.isalnum()), *pieces]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return _wrapped(backend, (), unk_token="[UNK]")


def clip_like(*merges: str) -> PreTrainedTokenizerBase:
    """Return a CLIP-like tokenizer: lower-casing, white space dropped, ``</w>`` ends a word."""
    alphabet = sorted(bytes_to_unicode().values())
    names = [*alphabet, *(f"{name}</w>" for name in alphabet)]
    names += [merge.replace(" ", "") for merge in merges]
    vocabulary = {name: number for number, name in enumerate(names)}
    pairs = [(merge.split(" ")[0], merge.split(" ")[1]) for merge in merges]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    split = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return _wrapped(backend, ())


def _wrapped(
    backend: Tokenizer, added: Sequence[AddedToken], unk_token: str | None = None
) -> PreTrainedTokenizerBase:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unk_token)
    tokenizer.add_special_tokens({"eos_token": EOS})
    tokenizer.add_tokens(list(added))
    return tokenizer
