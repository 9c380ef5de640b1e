"""Ids are spelled as the bytes that they stand for."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask.embedded import DEMO_MODEL
from lossmask.vocabulary_bytes import VocabularyBytes
from tests import corpus, small_tokenizers

TEXTS = ["Hello, world", " \n\n\té🙂 世界 e\u0301 \x00\x7f\u2028", "", "a<|end|>b", "½ ﬁ ǅ"]


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> VocabularyBytes:
    vocabulary = VocabularyBytes.of(tokenizer)
    assert vocabulary is not None
    return vocabulary


def spelled(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[bytes]:
    data, bounds = vocabulary_of(tokenizer).spell(np.asarray(ids, np.int32))
    assert str(bounds.dtype) == "int64"
    own = b"" if data is None else data.to_pybytes()
    return [own[start:end] for start, end in itertools.pairwise(bounds)]


def test_each_id_is_the_bytes_of_its_token() -> None:
    tokenizer = small_tokenizers.byte_level("h i", "Ġ hi", "Ċ Ċ", added=[AddedToken("<é>")])
    names = ["Ġhi", "ĊĊ", "Ã", "©", "<é>", "<|end|>", "h"]
    ids = [tokenizer.convert_tokens_to_ids(name) for name in names]
    assert spelled(tokenizer, ids) == [
        b" hi",
        b"\n\n",
        b"\xc3",
        b"\xa9",
        b"<\xc3\xa9>",
        b"<|end|>",
        b"h",
    ]


def test_no_ids_spell_nothing() -> None:
    assert spelled(small_tokenizers.byte_level(), []) == []


def test_every_byte_is_spelled_by_one_token() -> None:
    tokenizer = small_tokenizers.byte_level()
    assert set(spelled(tokenizer, list(range(256)))) == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_of_a_text_spell_it(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(spelled(tokenizer, ids)) == text.encode()


def test_an_added_token_that_is_in_the_vocabulary_is_its_own_text() -> None:
    tokenizer = small_tokenizers.byte_level("Ġ h")
    tokenizer.add_tokens([AddedToken("Ġh", normalized=False)])
    [number] = tokenizer("Ġh", add_special_tokens=False)["input_ids"]
    assert spelled(tokenizer, [number]) == ["Ġh".encode()]


def test_what_stands_for_no_bytes_spells_what_no_text_holds() -> None:
    tokenizer = copy.deepcopy(small_tokenizers.byte_level())
    tokenizer.add_tokens([AddedToken("far", normalized=False)])
    backend = tokenizer.backend_tokenizer
    names = backend.get_vocab(with_added_tokens=False)
    vocabulary = vocabulary_of(tokenizer)
    assert len(vocabulary.spelled) == len(names) + 2


def test_tokenizers_whose_tokens_stand_for_no_bytes_have_none() -> None:
    for tokenizer in (
        small_tokenizers.sentencepiece("▁ a"),
        small_tokenizers.unigram("▁a"),
        small_tokenizers.wordpiece("a"),
        small_tokenizers.clip_like(),
    ):
        vocabulary = VocabularyBytes.of(tokenizer)
        ids = np.asarray(tokenizer("a b", add_special_tokens=False)["input_ids"], np.int32)
        data = None if vocabulary is None else vocabulary.spell(ids)[0]
        assert data is None or data.to_pybytes() != b"a b"


@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.tokenizer_names())
def test_tokenizers_of_the_corpus_spell_their_texts_or_are_found_out(name: str) -> None:
    tokenizer = corpus.tokenizer(name)
    vocabulary = VocabularyBytes.of(tokenizer)
    if vocabulary is None:
        assert name not in ("gpt2", "qwen3", "llama3")
        return
    for text in TEXTS[:2]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        data, bounds = vocabulary.spell(np.asarray(ids, np.int32))
        own = b"" if data is None else data.to_pybytes()[: bounds[-1]]
        normal = tokenizer.backend_tokenizer.normalizer
        expected = text if normal is None else normal.normalize_str(text)
        assert own == expected.encode() or name == "clip"
