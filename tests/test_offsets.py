"""Offsets of every kind of tokenizer, worked out by hand on small ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from lossmask.embedded import DEMO_MODEL
from lossmask.offsets import OffsetFinder
from lossmask.placing import Misfit
from tests import small_tokenizers
from tests.small_tokenizers import EOS, byte_level, clip_like, sentencepiece, unigram, wordpiece


def found(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[str, str]] | Misfit:
    """Return (token, the characters it stands for) in order."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    offsets = OffsetFinder(tokenizer).find(text, np.asarray(ids, np.int32))
    if isinstance(offsets, Misfit):
        return offsets
    names = tokenizer.convert_ids_to_tokens(ids)
    spans = [text[start:end] for start, end in offsets.tolist()]
    return list(zip(names, spans, strict=True))


def test_byte_tokens_of_a_character_each_have_all_of_it() -> None:
    tokenizer = byte_level("Ġ ð", "Ġð Ł")
    assert found(tokenizer, "a 🙂b") == [
        *(("a", "a"), ("ĠðŁ", " 🙂"), ("Ļ", "🙂"), ("Ĥ", "🙂"), ("b", "b")),
    ]


def test_white_space_that_a_report_trims_is_the_tokens() -> None:
    tokenizer = byte_level("Ġ b", use_regex=True, trim_offsets=True)
    reported = tokenizer("a b  b", return_offsets_mapping=True)["offset_mapping"]
    assert reported == [(0, 1), (2, 3), (4, 4), (5, 6)]
    assert found(tokenizer, "a b  b") == [("a", "a"), ("Ġb", " b"), ("Ġ", " "), ("Ġb", " b")]


def test_a_composed_character_is_all_of_the_characters_it_is_composed_of() -> None:
    tokenizer = byte_level(normalizer=normalizers.NFC())
    reported = tokenizer("xe\u0301y", return_offsets_mapping=True)["offset_mapping"]
    assert reported == [(0, 1), (1, 2), (1, 2), (3, 4)]
    assert found(tokenizer, "xe\u0301y") == [
        *(("x", "x"), ("Ã", "e\u0301"), ("©", "e\u0301"), ("y", "y")),
    ]


def test_a_mark_behind_a_control_token_is_not_composed_with_it() -> None:
    tokenizer = byte_level(normalizer=normalizers.NFC())
    assert found(tokenizer, f"e\u0301{EOS}\u0338") == [
        *(("Ã", "e\u0301"), ("©", "e\u0301"), (EOS, EOS), ("Ì", "\u0338"), ("¸", "\u0338")),
    ]


def test_a_dummy_space_is_no_character_of_the_text() -> None:
    tokenizer = sentencepiece("▁ a")
    assert found(tokenizer, "a a") == [("▁a", "a"), ("▁a", " a")]
    assert found(tokenizer, " a") == [("▁a", " a")]
    assert found(tokenizer, f"{EOS}a") == [(EOS, EOS), ("a", "a")]


def test_a_dummy_space_before_a_character_without_a_piece_of_its_own_has_that_character() -> None:
    assert found(sentencepiece("▁ a"), "龘 a") == [
        *(("▁", "龘"), ("<0xE9>", "龘"), ("<0xBE>", "龘"), ("<0x98>", "龘"), ("▁a", " a")),
    ]


def test_a_dummy_space_behind_every_control_token() -> None:
    tokenizer = sentencepiece("▁ a", prepend_scheme="always")
    assert found(tokenizer, f"{EOS}a{EOS}龘{EOS} a") == [
        *((EOS, EOS), ("▁a", "a"), (EOS, EOS), ("▁", "龘"), ("<0xE9>", "龘"), ("<0xBE>", "龘")),
        *(("<0x98>", "龘"), (EOS, EOS), ("▁a", " a")),
    ]


def test_a_dummy_space_before_text_that_is_normalised() -> None:
    tokenizer = sentencepiece("▁ f", normalizer=normalizers.NFKC())
    assert found(tokenizer, "ﬁ a") == [("▁f", "ﬁ"), ("i", "ﬁ"), ("▁", " "), ("a", "a")]
    prepending = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.NFKC()]
    )
    tokenizer = sentencepiece("▁ f", normalizer=prepending, prepend_scheme="never")
    assert found(tokenizer, "ﬁ ﬁ") == [("▁f", "ﬁ"), ("i", "ﬁ"), ("▁f", " ﬁ"), ("i", "ﬁ")]


def test_a_typed_mark_is_told_from_a_space() -> None:
    assert found(sentencepiece("▁ a"), "▁a ▁") == [("▁a", "▁a"), ("▁", " "), ("▁", "▁")]


def test_an_added_token_has_the_white_space_it_swallows() -> None:
    bot = AddedToken("<|bot|>", rstrip=True, normalized=False, special=True)
    tokenizer = sentencepiece(added=[bot])
    assert found(tokenizer, "a<|bot|>\n  b") == [
        *(("▁", "a"), ("a", "a"), ("<|bot|>", "<|bot|>\n  "), ("b", "b")),
    ]
    mask = AddedToken("<mask>", lstrip=True, normalized=False)
    assert found(byte_level(added=[mask]), "a \n<mask> b") == [
        *(("a", "a"), ("<mask>", " \n<mask>"), ("Ġ", " "), ("b", "b")),
    ]


def test_a_letter_that_is_an_added_token_is_that_letter() -> None:
    letter = AddedToken("ø", normalized=False, special=False)
    tokenizer = byte_level(added=[letter])
    ids = tokenizer("bøs", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) != "bøs"
    assert found(tokenizer, "bøs") == [("b", "b"), ("ø", "ø"), ("s", "s")]


def test_white_space_that_is_dropped_is_nobodys() -> None:
    tokenizer = unigram("▁he", "llo")
    assert found(tokenizer, " he  hello\n") == [("▁he", "he"), ("▁he", "he"), ("llo", "llo")]
    assert found(tokenizer, f"{EOS} a") == [(EOS, EOS), ("▁", "a"), ("a", "a")]


def test_tokens_of_a_character_that_becomes_several_each_have_it() -> None:
    assert found(unigram(), "ﬁ x") == [("▁", "ﬁ"), ("f", "ﬁ"), ("i", "ﬁ"), ("▁", "x"), ("x", "x")]


def test_an_unknown_token_in_the_middle_of_a_character_is_found() -> None:
    half = [("1", "½"), ("<unk>", "½"), ("2", "½")]
    assert found(unigram(), "x½y") == [("▁", "x"), ("x", "x"), *half, ("y", "y")]
    accented = [("f", "ﬁ\u0301"), ("<unk>", "ﬁ\u0301")]
    assert found(unigram(), "xﬁ\u0301y") == [("▁", "x"), ("x", "x"), *accented, ("y", "y")]


def test_unknown_characters_are_those_that_are_reported() -> None:
    assert found(unigram(), "龘a龘龘 b") == [
        *(("▁", "龘"), ("<unk>", "龘"), ("a", "a"), ("<unk>", "龘龘"), ("▁", "b"), ("b", "b")),
    ]


def test_an_unknown_word_among_words_that_are_spelled() -> None:
    assert found(wordpiece("he", "##llo"), "Hello  H\u00e9llo, 龘龘a 🙂b!") == [
        *(("he", "He"), ("##llo", "llo"), ("he", "H\u00e9"), ("##llo", "llo"), (",", ",")),
        *(("[UNK]", "龘"), ("[UNK]", "龘"), ("a", "a"), ("[UNK]", "🙂b"), ("!", "!")),
    ]


def test_accents_and_control_characters_that_are_stripped_are_nobodys() -> None:
    assert found(wordpiece(), f"{EOS}\nA\u0301\x07b\u0301") == [
        *((EOS, EOS), ("a", "A"), ("##b", "b")),
    ]


def test_a_control_token_keeps_its_case_where_text_loses_it() -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens([AddedToken("<|IM|>", normalized=False, special=True)])
    assert found(tokenizer, "A<|IM|>A<|im|>") == [
        *(("a", "A"), ("<|IM|>", "<|IM|>"), ("a", "A")),
        *(("<", "<"), ("|", "|"), ("i", "i"), ("##m", "m"), ("|", "|"), (">", ">")),
    ]


def test_clip_drops_case_and_space_and_ends_words() -> None:
    assert found(clip_like("h i</w>"), f"Hi  \u00c9 e\u0301!{EOS}\n") == [
        *(("hi</w>", "Hi"), ("Ã", "\u00c9"), ("©</w>", "\u00c9"), ("Ã", "e\u0301")),
        *(("©</w>", "e\u0301"), ("!</w>", "!"), (EOS, EOS)),
    ]


def test_a_slow_tokenizer_of_bytes() -> None:
    assert found(ByT5Tokenizer(), "aé </s> b") == [
        *(("a", "a"), ("Ã", "é"), ("©", "é"), ("</s>", " </s> "), ("b", "b")),
    ]


def test_a_slow_wordpiece_gives_the_offsets_of_the_fast_one(tmp_path: Path) -> None:
    fast = wordpiece("he", "##llo")
    names = sorted(fast.get_vocab(), key=fast.get_vocab().__getitem__)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    specials = dict.fromkeys(("sep_token", "pad_token", "cls_token", "mask_token"), "[UNK]")
    slow = BertTokenizerLegacy(str(vocabulary), **specials)
    for text in (
        "Hello  Héllo, 龘龘a 🙂b!",
        "\nA\u0301\x07b\u0301",
        "tabs\tand\u2028x",
        "[UNK]a",
        "",
    ):
        assert found(slow, text) == found(fast, text)


def test_half_a_character_is_found() -> None:
    assert OffsetFinder(byte_level()).find("ab\ud83d", np.zeros(3, np.int32)) == Misfit(0, 2)


def test_tokens_of_another_text_do_not_fit() -> None:
    tokenizer = byte_level()
    ids = np.asarray(tokenizer("abd")["input_ids"], np.int32)
    assert OffsetFinder(tokenizer).find("abc", ids) == Misfit(2, 2)
    assert OffsetFinder(tokenizer).find("ab", ids) == Misfit(2, 2)
    assert OffsetFinder(tokenizer).find("abde", ids) == Misfit(3, 3)


def test_a_report_for_another_text_is_not_believed() -> None:
    tokenizer = unigram()
    ids = np.asarray(tokenizer("龘 龘 龘", add_special_tokens=False)["input_ids"], np.int32)
    assert OffsetFinder(tokenizer).find("a", ids) == Misfit(1, 0)


def test_an_id_outside_the_vocabulary_does_not_fit() -> None:
    finder = OffsetFinder(byte_level())
    assert finder.find("None", np.asarray([10**6], np.int32)) == Misfit(0, 0)


def test_a_character_that_the_normaliser_removes_is_nobodys() -> None:
    lossy = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    lossy.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    assert found(lossy, "<|im_end|>x<|im_end|>") == [("<|im_end|>", "<|im_end|>")] * 2


TOKENIZERS = {
    "byte level": byte_level("Ġ t", "h e", "Ġt he"),
    "byte level, NFC": byte_level("e Ì", normalizer=normalizers.NFC(), trim_offsets=True),
    "byte level, NFKC": byte_level(normalizer=normalizers.NFKC()),
    "sentencepiece": sentencepiece("▁ ▁", "▁ a"),
    "sentencepiece, always a dummy": sentencepiece("▁ ▁", prepend_scheme="always"),
    "unigram": unigram("▁the", "he"),
    "wordpiece": wordpiece("the", "##he"),
    "clip": clip_like("t h", "th e</w>"),
}
FINDERS = {name: OffsetFinder(tokenizer) for name, tokenizer in TOKENIZERS.items()}
_CHARACTERS = "the TA \n\t\u00a0▁é\u0301e龘🙂½ﬁß가.,<|end|>\u200b\u0338"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.sampled_from([*_CHARACTERS, EOS, "the ", "  "]), max_size=12))
def test_any_text_is_covered_in_order(name: str, parts: list[str]) -> None:
    text = "".join(parts)
    tokenizer = TOKENIZERS[name]
    ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    offsets = FINDERS[name].find(text, ids)
    assert not isinstance(offsets, Misfit)
    starts, ends = offsets.T
    assert (np.diff(starts) >= 0).all()
    assert ((starts < ends) | (ends == len(text))).all()
    owned = np.zeros(len(text), bool)
    for start, end in offsets.tolist():
        owned[start:end] = True
    nobodys = {text[at] for at in np.flatnonzero(~owned)}
    if name in ("unigram", "wordpiece", "clip"):
        assert nobodys <= set(" \n\t\u00a0▁\u0301\u0338\u200b")
    else:
        assert not nobodys


def test_a_tokenizer_made_for_the_test_merges_what_it_was_trained_on() -> None:
    tokenizer = small_tokenizers.trained_to_merge("Why?\n\nSo?\n\n" * 50)
    assert found(tokenizer, "Why?\n\nx") == [("Why", "Why"), ("?ĊĊ", "?\n\n"), ("x", "x")]
