"""Every byte of the normal form knows the characters it came from."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from lossmask.normalised_text import NormalisedText, Normaliser


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def unchanged(text: str) -> str:
    return text


def origins(seen: NormalisedText) -> list[tuple[str, str]]:
    """Return (characters, their normal form), in the order of the text."""
    found: list[tuple[str, bytes]] = []
    spans = zip(seen.starts[:-1].tolist(), seen.ends[:-1].tolist(), seen.data, strict=True)
    last = None
    for start, end, byte in spans:
        if (start, end) == last:
            found[-1] = (found[-1][0], found[-1][1] + bytes([byte]))
        else:
            found.append((seen.text[start:end], bytes([byte])))
        last = (start, end)
    return [(characters, data.decode()) for characters, data in found]


def test_text_as_given_has_the_bytes_of_each_character() -> None:
    seen = NormalisedText.as_given("a▁é🙂", "a é🙂")
    assert seen.data == "a é🙂".encode()
    assert seen.starts.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4]
    assert seen.ends.tolist() == [1, 2, 3, 3, 4, 4, 4, 4, 4]


def test_only_characters_that_are_normalised_together_share_their_bytes() -> None:
    seen = Normaliser(nfc, unchanged).read("xe\u0301y caf\u00e9", ())
    assert origins(seen) == [
        *(("x", "x"), ("e\u0301", "\u00e9"), ("y", "y"), (" ", " ")),
        *(("c", "c"), ("a", "a"), ("f", "f"), ("\u00e9", "\u00e9")),
    ]


def test_a_character_that_becomes_several_owns_all_of_them() -> None:
    seen = Normaliser(nfkc, unchanged).read("ﬁ½", ())
    assert origins(seen) == [("ﬁ", "fi"), ("½", "1\u20442")]


def test_a_character_that_is_dropped_owns_nothing() -> None:
    bert = normalizers.BertNormalizer(lowercase=True)
    seen = Normaliser(bert.normalize_str, str.strip).read("A\x07e\u0301 你好", ())
    assert origins(seen) == [("A", "a"), ("e", "e"), ("你", "你"), ("好", "好")]


def test_a_rule_over_several_characters_makes_them_one_piece() -> None:
    albert = normalizers.Replace("``", '"')
    seen = Normaliser(albert.normalize_str, unchanged).read("ab``c`d", ())
    assert origins(seen)[2] == ("``", '"')
    assert origins(seen)[4] == ("`", "`")


def test_lower_casing_that_depends_on_the_end_of_a_word_is_followed() -> None:
    seen = Normaliser(str.lower, unchanged).read("ΟΔΟΣ ΣΑΣ.", ())
    assert seen.data.decode() == "ΟΔΟΣ ΣΑΣ.".lower() == "οδος σας."


def test_nothing_is_normalised_across_the_border_of_an_added_token() -> None:
    whole = Normaliser(nfc, unchanged).read("a>\u0338", ())
    assert whole.data.decode() == "a≯"
    cut = Normaliser(nfc, unchanged).read("a>\u0338", ["a>"])
    assert cut.data.decode() == "a>\u0338"


def test_an_interval_covers_the_characters_of_its_bytes() -> None:
    seen = Normaliser(nfc, unchanged).read("xe\u0301y", ())
    starts, ends = [0, 1, 2, 3, 4, 4], [1, 2, 3, 3, 4, 4]
    spans = seen.intervals(np.asarray(starts), np.asarray(ends)).tolist()
    assert spans == [[0, 1], [1, 3], [1, 3], [3, 4], [4, 4], [4, 4]]


def test_white_space_is_that_of_the_text_and_not_of_marks() -> None:
    seen = NormalisedText.as_given("a\n ▁b", "a\n  b")
    assert seen.behind_space(1) == 3
    assert seen.behind_space(0) == 0
    assert NormalisedText.as_given("a \x1c", "a \x1c").behind_space(1) == 2


@pytest.mark.parametrize("normalise", [nfc, nfkc, str.lower, None])
@given(text=st.text(st.sampled_from("aé \u0301\u0323ΣＡﬁ½\n🙂가ᄀ\u11a8\u1161.İß"), max_size=30))
def test_the_pieces_make_up_the_whole(normalise: Callable[[str], str] | None, text: str) -> None:
    seen = Normaliser(normalise, unchanged).read(text, ())
    assert seen.data.decode() == (normalise(text) if normalise else text)
    assert all(a <= b for a, b in zip(seen.starts, seen.starts[1:], strict=False))


def test_a_long_run_of_marks_is_read_in_time() -> None:
    text = "a" + "\u0301\u0323" * 1_000
    begun = time.perf_counter()
    seen = Normaliser(nfc, unchanged).read(text, ())
    assert seen.data.decode() == nfc(text)
    assert time.perf_counter() - begun < 10


def test_long_chunks_are_not_remembered() -> None:
    normaliser = Normaliser(nfc, unchanged)
    normaliser.read("short " + "x" * 1000, ())
    assert sorted(normaliser._known) == [" ", "short"]
