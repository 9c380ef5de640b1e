"""Ids are the tokenizer's, offsets cover the text, whatever the tokenizer reports."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers, pre_tokenizers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from lossmask import ParityError, TokenizerError
from lossmask.embedded import DEMO_MODEL
from lossmask.tokenizing import TextTokenizer, Tokens
from tests import corpus, small_tokenizers

TEXTS = [
    "",
    "plain words, and 123",
    "<|im_start|>user\nHi<|im_end|>\n",
    "👍🏽 at the start, 龘 inside, 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "  leading and trailing  \n\n",
    "tabs\tand\r\nlines\u2028and\x00nul",
    "de\u0301compose\u0308d and compose\u00e9d",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def covered(tokens: Tokens, length: int) -> bool:
    """Whether each character lies in a token, and tokens ascend without a gap."""
    owned = np.zeros(length, bool)
    for start, end in tokens.offsets:
        owned[start:end] = True
    return bool(owned.all() and (np.diff(tokens.offsets[:, 0]) >= 0).all())


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_tokenizers_and_offsets_cover_the_text(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    [tokens] = TextTokenizer(tokenizer).encode([text])
    assert tokens.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert covered(tokens, len(text))


def test_tokens_of_one_character_each_have_all_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    [tokens] = TextTokenizer(tokenizer).encode(["a🙂b"])
    assert len(tokens) > 3
    assert {(1, 2)} == set(map(tuple, tokens.offsets[1:-1].tolist()))


def test_offsets_of_decomposed_text_under_nfc_are_those_of_the_text_given(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    composing = copy.deepcopy(tokenizer)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    text = "xe\u0301y"
    reported = composing(text, return_offsets_mapping=True)["offset_mapping"]
    assert max(end for _, end in reported) == 4
    [tokens] = TextTokenizer(composing).encode([text])
    assert tokenizer.decode(tokens.ids.tolist()) == "x\u00e9y"
    assert tokens.offsets[0].tolist() == [0, 1]
    assert {(1, 3)} == set(map(tuple, tokens.offsets[1:-1].tolist()))
    assert tokens.offsets[-1].tolist() == [3, 4]


def test_an_added_token_owns_the_white_space_it_swallows(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    greedy = copy.deepcopy(tokenizer)
    greedy.add_tokens([AddedToken("<|bot|>", rstrip=True, normalized=False, special=True)])
    [tokens] = TextTokenizer(greedy).encode(["a<|bot|>\n  b"])
    assert tokens.offsets.tolist() == [[0, 1], [1, 11], [11, 12]]


def test_text_that_follows_is_spelled_exactly(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = TextTokenizer(tokenizer).continuation("a", " word\n")
    assert tokenizer.decode(tokens.ids.tolist()) == " word\n"
    assert covered(tokens, 6)


@pytest.mark.parametrize(
    ("prompt", "text", "names"),
    [
        ("x", "ab", ["ab"]),
        ("x", " ab", ["▁", "ab"]),
        ("x", "龘", ["<0xE9>", "<0xBE>", "<0x98>"]),
        ("x", "a<|end|>", ["a", "<|end|>"]),
    ],
)
def test_text_that_follows_has_no_dummy_space(prompt: str, text: str, names: list[str]) -> None:
    llama = small_tokenizers.sentencepiece("a b")
    assert llama.tokenize(text)[0] in ("▁", "▁a")
    tokens = TextTokenizer(llama).continuation(prompt, text)
    assert llama.convert_ids_to_tokens(tokens.ids.tolist()) == names


def test_a_word_that_the_prompt_begins_goes_on_behind_it() -> None:
    bert = small_tokenizers.wordpiece("##ab", "ab", "xa")
    tokens = TextTokenizer(bert).continuation("so x", "ab c<|end|>")
    assert bert.convert_ids_to_tokens(tokens.ids.tolist()) == ["##ab", "c", "<|end|>"]
    assert tokens.offsets.tolist() == [[0, 2], [3, 4], [4, 11]]
    t5 = small_tokenizers.unigram("▁xa", "ab")
    assert t5.tokenize("xab") == ["▁xa", "b"]
    tokens = TextTokenizer(t5).continuation("yx", "ab")
    assert t5.convert_ids_to_tokens(tokens.ids.tolist()) == ["ab"]


def test_text_that_no_tokens_spell_behind_the_prompt_is_refused() -> None:
    clip = small_tokenizers.clip_like()
    with pytest.raises(ParityError, match="no tokens spell exactly 'b'") as raised:
        TextTokenizer(clip).continuation("a", "b")
    assert raised.value.reason == "boundary_inside_token"


def test_an_unknown_token_that_reaches_back_into_the_prompt_is_refused() -> None:
    t5 = small_tokenizers.unigram()
    assert t5("🙂")["input_ids"] == t5("🙂🙂")["input_ids"]
    with pytest.raises(ParityError, match="no tokens spell exactly '🙂b'"):
        TextTokenizer(t5).continuation("🙂", "🙂b")


def test_tokens_that_do_not_spell_the_text_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    odd = copy.deepcopy(tokenizer)
    odd.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("q", "removed"), odd.backend_tokenizer.pre_tokenizer]
    )
    with pytest.raises(
        TokenizerError, match=r"at character 2, 'qb', token \d is 'b' .* does not spell"
    ) as raised:
        TextTokenizer(odd).encode(["a qb"])
    assert raised.value.reason == "unusable_offsets"


def test_text_that_no_token_is_left_for_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    odd = copy.deepcopy(tokenizer)
    odd.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("q", "removed"), odd.backend_tokenizer.pre_tokenizer]
    )
    with pytest.raises(TokenizerError, match="at character 1, 'q', no token is left"):
        TextTokenizer(odd).encode(["aq"])


def test_control_tokens_and_added_tokens_are_listed_longest_first_and_once(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    adapted = copy.deepcopy(tokenizer)
    adapted.add_tokens([AddedToken("<tool>", special=False), AddedToken("<t>", special=False)])
    text_tokenizer = TextTokenizer(adapted)
    control = text_tokenizer.control_tokens()
    assert control == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert text_tokenizer.added_tokens() == (*control, "<tool>", "<t>")
    assert text_tokenizer.control_tokens() is control


CHAT = "<|end|>a1<|end|>\nb 2<|end|>a1 e\u0301<|end|>\n"
BEGINNINGS = [
    CHAT[:3],  # inside an added token
    CHAT[:16],
    CHAT[:17] + "x",
    "<|end|>a1<|end|>",
    "",
    "b",
    CHAT,
    CHAT[:24] + "<|end|>\nc",
]


@pytest.mark.parametrize(
    "tokenizer",
    [
        small_tokenizers.byte_level("a 1", "e n"),
        small_tokenizers.byte_level("a 1", normalizer=normalizers.NFC()),
        small_tokenizers.sentencepiece("\u2581 a", "a 1"),
        small_tokenizers.wordpiece("a", "##1", "b"),
        small_tokenizers.unigram("a1", "\u2581b"),
    ],
    ids=["bytes", "bytes, composed", "sentencepiece", "wordpiece", "unigram"],
)
@pytest.mark.parametrize("whole", [CHAT, CHAT.replace("e\u0301", "e"), "a1\n"])
def test_texts_that_begin_alike_are_tokenized_as_each_alone(
    tokenizer: PreTrainedTokenizerBase, whole: str
) -> None:
    text_tokenizer = TextTokenizer(tokenizer)
    texts = [*BEGINNINGS, whole]
    for text, tokens in zip(texts, text_tokenizer.encode(texts), strict=True):
        [alone] = text_tokenizer.encode([text])
        assert tokens.ids.tolist() == alone.ids.tolist()
        assert tokens.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokens.offsets.tolist() == alone.offsets.tolist(), text
        assert len(tokens) == len(alone)


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_swallowed_white_space_is_told_by_the_whole_text(scheme: str) -> None:
    eats = AddedToken("<|e|>", rstrip=True, normalized=False)
    tokenizer = small_tokenizers.sentencepiece("▁ c", prepend_scheme=scheme, added=[eats])
    text_tokenizer = TextTokenizer(tokenizer)
    texts = ["<|end|>x<|e|> c", "<|e|> c", "<|end|>x<|e|>\nc", "<|end|>x<|e|> b"]
    for text, tokens in zip(texts, text_tokenizer.encode(texts), strict=True):
        [alone] = text_tokenizer.encode([text])
        assert tokens.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokens.offsets.tolist() == alone.offsets.tolist(), text


def test_what_texts_begin_alike_with_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(small_tokenizers.byte_level())
    texts = ["<|end|>".join(map(str, range(count))) + "<|end|>" for count in range(1, 80)]
    tokenizer.encode(texts[:2])  # tries out where texts can be cut
    given: list[str] = []
    encode = tokenizer.encode_flat

    def noting(each: Sequence[str]) -> Any:
        given.extend(each)
        return encode(each)

    monkeypatch.setattr(tokenizer, "encode_flat", noting)
    *_, before, last = tokenizer.encode(texts)
    assert sum(map(len, given)) <= len(texts[-1]) + len("<|end|>")
    assert (before.base, before.shared) == (last, len(before) - 1)  # the text ends with a token


def test_tokens_are_compared_with_others_of_the_same_text_and_of_another_one() -> None:
    tokenizer = TextTokenizer(small_tokenizers.byte_level())
    short, other, longer, last = tokenizer.encode(
        ["a<|end|>b", "a<|end|>c", "a<|end|>b<|end|>", "a<|end|>b<|end|>d<|end|>"]
    )
    [alone] = tokenizer.encode(["a<|end|>b"])
    for each in (short, longer, last):
        assert each.begin_with(short)
        assert each.begin_with(alone)
        assert not each.begin_with(other)
    assert alone.begin_with(short)
    assert last.begin_with(longer)
    assert not short.begin_with(longer)
    assert not longer.begin_with(last)
    less = Tokens(short.ids[1:] + 1, short.offsets[1:], last, 1)
    assert not less.begin_with(short)
    assert not short.begin_with(less)


def test_a_tokenizer_survives_pickling() -> None:
    text = "Hello  h\u00e9llo"
    for tokenizer in (
        small_tokenizers.wordpiece("he", "##llo"),
        small_tokenizers.byte_level(normalizer=normalizers.NFC()),
    ):
        original = TextTokenizer(tokenizer)
        copied = pickle.loads(pickle.dumps(original))
        [before], [after] = original.encode([text]), copied.encode([text])
        assert before.offsets.tolist() == after.offsets.tolist()


@corpus.needs_corpus
@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral-v3", "phi3-mini", "qwen3", "yi"])
def test_published_tokenizers_keep_their_ids_and_cover_the_text(name: str) -> None:
    published = corpus.tokenizer(name)
    texts = [text for text in TEXTS if text]
    for text, tokens in zip(texts, TextTokenizer(published).encode(texts), strict=True):
        assert tokens.ids.tolist() == published(text, add_special_tokens=False)["input_ids"]
        assert covered(tokens, len(text)), text


@corpus.needs_corpus
def test_sentencepiece_text_that_follows_has_no_dummy_space() -> None:
    llama = corpus.tokenizer("llama2")
    tokens = TextTokenizer(llama).continuation("question", "answer")
    assert llama.convert_ids_to_tokens(tokens.ids.tolist()) == ["answer"]
    assert llama("answer", add_special_tokens=False)["input_ids"] != tokens.ids.tolist()
