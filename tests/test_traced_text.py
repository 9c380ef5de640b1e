"""Operations on traced strings keep the text of ``str``, the origins, and the marks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossmask.traced_text import (
    COARSE,
    LITERAL,
    MIXED,
    Mark,
    TracedText,
    coarse,
    concat,
    join,
    leaf_of,
    leaf_text,
    mark_text,
    marks_of,
    origins_of,
    substitute,
)

START = Mark("start", 3)
END = Mark("end", 3)


def places(text: str) -> list[str]:
    """Return ``leaf:offset`` per character, ``-`` if literal, ``mixed``, ``leaf:~`` if coarse."""
    names = {LITERAL: "-", MIXED: "mixed"}
    return [
        names.get(origin, f"{origin >> 32}:{'~' if origin & COARSE == COARSE else origin & COARSE}")
        for origin in origins_of(text).tolist()
    ]


def offsets(text: str) -> list[int]:
    """Return the offset of each character in its leaf, -1 for literals."""
    return [origin if origin < 0 else origin & COARSE for origin in origins_of(text).tolist()]


def traced(text: str, leaf: int = 0) -> TracedText:
    return leaf_text(text, leaf)


def marked(text: str, *marks: tuple[int, Mark]) -> str:
    """Return leaf text with marks at positions."""
    return TracedText(text, origins_of(leaf_text(text, 0)), marks)


def test_a_leaf_counts_its_characters_from_zero() -> None:
    assert places(leaf_text("añ😀", 7)) == ["7:0", "7:1", "7:2"]


def test_plain_text_is_literal_and_has_no_marks() -> None:
    assert places("ab") == places(TracedText("ab")) == ["-", "-"]
    assert marks_of("ab") == marks_of(TracedText("ab")) == ()


def test_str_keeps_the_origins() -> None:
    word = traced("ab")
    assert str(word) is word


def test_leaf_of_names_the_leaf_and_keeps_negative_origins() -> None:
    text = concat((traced("a", 2), "x", traced("b", 5)))
    assert leaf_of(origins_of(text)).tolist() == [2, LITERAL, 5]
    assert leaf_of(np.array([MIXED])).tolist() == [MIXED]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda text: text + "!", ["0:0", "0:1", "-"]),
        (lambda text: "<" + text, ["-", "0:0", "0:1"]),
        (lambda text: text + traced("b", 4), ["0:0", "0:1", "4:0"]),
        (lambda text: text * 2, ["0:0", "0:1"] * 2),
        (lambda text: 2 * text, ["0:0", "0:1"] * 2),
        (lambda text: text * -1, []),
    ],
)
def test_sums_and_products_keep_origins(
    operation: Callable[[str], str], expected: list[str]
) -> None:
    result = operation(traced("ab"))
    assert result == operation("ab")
    assert places(result) == expected


def test_a_traced_string_is_not_added_to_a_number() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        traced("a") + 1  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + traced("a")  # type: ignore[operator]


def test_concat_shifts_marks_by_what_comes_before() -> None:
    whole = concat(("ab", mark_text(START), traced("cd"), mark_text(END), "e"))
    assert whole == "abcde"
    assert places(whole) == ["-", "-", "0:0", "0:1", "-"]
    assert marks_of(whole) == ((2, START), (4, END))


def test_concat_of_plain_strings_is_a_plain_string() -> None:
    whole = concat(("a", "", "b"))
    assert type(whole) is str
    assert whole == "ab"


def test_concat_keeps_marks_where_there_is_no_text() -> None:
    assert marks_of(concat((mark_text(START), "", mark_text(END)))) == ((0, START), (0, END))


@pytest.mark.parametrize(
    "cut",
    [
        slice(1, 4),
        slice(None, -2),
        slice(-2, None),
        slice(4, 1),
        slice(9, 12),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(4, 1, -2),
        slice(-20, 20),
    ],
)
def test_slices_select_origins_as_they_select_characters(cut: slice) -> None:
    word = traced("hello")
    assert word[cut] == "hello"[cut]
    assert offsets(word[cut]) == list(range(5))[cut]


@pytest.mark.parametrize("index", [0, 4, -1, -5])
def test_an_index_selects_one_origin(index: int) -> None:
    word = traced("hello")
    assert word[index] == "hello"[index]
    assert offsets(word[index]) == [index % 5]


def test_an_index_outside_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="string index out of range"):
        traced("ab")[2]


def test_iteration_gives_traced_characters() -> None:
    assert [(c, *offsets(c)) for c in traced("ab")] == [("a", 0), ("b", 1)]
    assert [(c, *offsets(c)) for c in reversed(traced("ab"))] == [("b", 1), ("a", 0)]


def test_a_mark_at_a_cut_goes_to_the_part_behind_it() -> None:
    word = marked("abcd", (2, START))
    assert (marks_of(word[:2]), marks_of(word[2:])) == ((), ((0, START),))


def test_a_mark_at_the_end_stays_with_the_last_part() -> None:
    word = marked("abcd", (4, END))
    assert (marks_of(word[:3]), marks_of(word[3:])) == ((), ((1, END),))


@pytest.mark.parametrize("method", ["strip", "lstrip", "rstrip"])
@pytest.mark.parametrize("text", ["  ab \n", "ab", " \n ", "", "\u3000ab\u00a0", "xxabx"])
@pytest.mark.parametrize("chars", [None, "x", "\n", "ab "])
def test_stripping_keeps_the_origins_of_what_is_left(
    method: str, text: str, chars: str | None
) -> None:
    left = getattr(traced(text), method)(chars)
    expected = getattr(text, method)(chars)
    assert left == expected
    skipped = 0 if method == "rstrip" else len(text) - len(text.lstrip(chars))
    assert offsets(left) == list(range(skipped, skipped + len(expected)))


def test_stripping_moves_marks_to_the_borders() -> None:
    word = marked("  ab  ", (0, START), (3, START), (6, END))
    assert marks_of(word.strip()) == ((0, START), (1, START), (2, END))
    assert marks_of(marked("  ", (0, START), (2, END)).strip()) == ((0, START), (0, END))


@pytest.mark.parametrize("affix", ["", "ab", "ba", "aba", "x", "abab"])
def test_removed_affixes_keep_the_origins_of_the_rest(affix: str) -> None:
    word = traced("aba")
    assert word.removeprefix(affix) == "aba".removeprefix(affix)
    assert offsets(word.removeprefix(affix)) == list(range(3))[3 - len("aba".removeprefix(affix)) :]
    assert word.removesuffix(affix) == "aba".removesuffix(affix)
    assert offsets(word.removesuffix(affix)) == list(range(len("aba".removesuffix(affix))))


@pytest.mark.parametrize("method", ["split", "rsplit"])
@pytest.mark.parametrize("separator", [None, " ", ", ", "a"])
@pytest.mark.parametrize("limit", [-1, 0, 1, 2])
@pytest.mark.parametrize("text", ["", "a", " a  b a ", "a, b, a", "aaa", "\u2003b\ta\n"])
def test_splitting_gives_the_pieces_of_str_with_their_origins(
    method: str, separator: str | None, limit: int, text: str
) -> None:
    pieces = getattr(traced(text), method)(separator, limit)
    assert pieces == getattr(text, method)(separator, limit)
    at = 0
    for piece in pieces:
        kept = offsets(piece)
        assert kept == list(range(kept[0], kept[0] + len(piece))) if piece else kept == []
        assert [text[offset] for offset in kept] == list(piece)
        assert not kept or kept[0] >= at
        at = kept[-1] + 1 if kept else at


def test_rsplit_takes_the_last_of_equal_pieces() -> None:
    assert [offsets(piece) for piece in traced("a a a").rsplit(None, 1)] == [[0, 1, 2], [4]]
    assert [offsets(piece) for piece in traced("a a a").split(None, 1)] == [[0], [2, 3, 4]]


def test_an_empty_separator_is_refused_as_by_str() -> None:
    with pytest.raises(ValueError, match="empty separator"):
        traced("ab").split("")


@pytest.mark.parametrize("keepends", [False, True])
def test_lines_keep_origins_at_every_kind_of_line_break(keepends: bool) -> None:
    text = "a\nb\r\nc\rd\u2028e\x0bf\n\n"
    lines = traced(text).splitlines(keepends)
    assert lines == text.splitlines(keepends)
    starts = [0, 2, 5, 7, 9, 11, 13]
    kept = [list(range(s, s + len(line))) for s, line in zip(starts, lines, strict=True)]
    assert [offsets(line) for line in lines] == kept


@pytest.mark.parametrize("method", ["partition", "rpartition"])
@pytest.mark.parametrize("separator", ["-", "--", "x", "a-"])
def test_partitions_together_hold_every_origin_once(method: str, separator: str) -> None:
    parts = getattr(traced("a-b--c"), method)(separator)
    assert parts == getattr("a-b--c", method)(separator)
    assert [offset for part in parts for offset in offsets(part)] == list(range(6))


@pytest.mark.parametrize("count", [-1, 0, 1, 5])
@pytest.mark.parametrize(
    ("old", "new", "all_offsets"),
    [
        ("b", "X", [0, -1, 2, -1, 4]),
        ("b", "", [0, 2, 4]),
        ("ba", "YZW", [0, -1, -1, -1, -1, -1, -1]),
        ("x", "y", [0, 1, 2, 3, 4]),
    ],
)
def test_replacing_leaves_the_rest_its_origins(
    count: int, old: str, new: str, all_offsets: list[int]
) -> None:
    replaced = traced("ababa").replace(old, new, count)
    assert replaced == "ababa".replace(old, new, count)
    if count in (-1, 5):
        assert offsets(replaced) == all_offsets
    if count == 0:
        assert offsets(replaced) == [0, 1, 2, 3, 4]


def test_replacing_by_traced_text_brings_its_origins() -> None:
    assert places(traced("a-b").replace("-", traced("+!", 9))) == ["0:0", "9:0", "9:1", "0:2"]


def test_replacing_nothing_takes_the_coarse_origin() -> None:
    replaced = traced("ab").replace("", "-")
    assert replaced == "-a-b-"
    assert places(replaced) == ["0:~"] * 5


@pytest.mark.parametrize("items", [[], ["a"], ["a", "b"], ["", ""]])
def test_joining_gives_the_text_of_str(items: list[str]) -> None:
    assert join(", ", items) == ", ".join(items)
    assert traced(", ", 1).join(items) == ", ".join(items)


def test_joining_keeps_origins_of_items_and_separator() -> None:
    joined = traced("+", 1).join([traced("ab"), "c", traced("d", 2)])
    assert joined == "ab+c+d"
    assert places(joined) == ["0:0", "0:1", "1:0", "-", "1:0", "2:0"]


def test_joining_something_else_is_a_type_error_as_with_str() -> None:
    with pytest.raises(TypeError, match="sequence item 1: expected str instance, int found"):
        join("", ["a", 1])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "method", ["upper", "lower", "casefold", "swapcase", "title", "capitalize"]
)
@pytest.mark.parametrize("text", ["", "hello World", "ΑΣ ΟΣ", "ǆ x"])
def test_case_changes_that_keep_the_length_keep_origins(method: str, text: str) -> None:
    changed = getattr(traced(text), method)()
    assert changed == getattr(text, method)()
    assert offsets(changed) == list(range(len(text)))


def test_a_character_that_grows_gives_its_origin_to_all_it_becomes() -> None:
    assert offsets(traced("aßb").upper()) == [0, 1, 1, 2]
    assert traced("aßb").upper() == "ASSB"
    assert offsets(traced("İx").lower()) == [0, 0, 1]
    assert offsets(traced("ﬁx").upper()) == [0, 0, 1]


def test_a_final_sigma_keeps_its_place() -> None:
    lowered = traced("ΣΑΣ").lower()
    assert lowered == "σας"
    assert offsets(lowered) == [0, 1, 2]


def test_a_growing_text_whose_change_depends_on_neighbours_is_coarse() -> None:
    titled = traced("ßab").title()
    assert titled == "Ssab"
    assert places(titled) == ["0:~"] * 4


def test_a_change_of_two_sources_at_once_is_mixed() -> None:
    assert places((traced("ß") + traced("ab", 1)).title()) == ["mixed"] * 4


def test_case_changes_keep_marks() -> None:
    assert marks_of(marked("ab", (0, START), (2, END)).upper()) == ((0, START), (2, END))


@pytest.mark.parametrize("method", ["center", "ljust", "rjust"])
@pytest.mark.parametrize(("text", "width"), [("ab", 5), ("ab", 6), ("*a*", 8), ("ab", 1), ("", 3)])
def test_padding_is_literal(method: str, text: str, width: int) -> None:
    padded = getattr(traced(text), method)(width, "*")
    expected = getattr(text, method)(width, "*")
    assert padded == expected
    written = [offset for offset in offsets(padded) if offset >= 0]
    assert written == list(range(len(text)))
    if method == "ljust":
        assert offsets(padded)[: len(text)] == written
    if method == "rjust":
        assert offsets(padded)[len(padded) - len(text) :] == written


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda text: text.zfill(5), "000ab"),
        (lambda text: (text + "\t.").expandtabs(4), "ab  ."),
        (lambda text: "%5s" % text, "   ab"),  # noqa: UP031  (the operator itself is tried)
        (lambda text: format(text, ">5"), "   ab"),
        (lambda text: text % (), "ab"),
    ],
)
def test_operations_that_cannot_be_followed_keep_the_leaf(
    operation: Callable[[str], str], expected: str
) -> None:
    result = operation(traced("ab"))
    assert result == expected
    assert places(result) == ["0:~"] * len(expected)


def test_formatting_without_specification_changes_nothing() -> None:
    word = traced("ab")
    assert format(word) is word


def test_translation_keeps_origins() -> None:
    translated = traced("abc").translate({ord("a"): "x", ord("c"): "yz"})
    assert translated == "xbyz"
    assert offsets(translated) == [0, 1, 2, 2]
    shortened = traced("abc").translate({ord("b"): None})
    assert (shortened, offsets(shortened)) == ("ac", [0, 2])


def test_a_translation_of_equal_length_that_moves_characters_keeps_origins() -> None:
    translated = (traced("a") + traced("b", 1)).translate({ord("a"): None, ord("b"): "xy"})
    assert translated == "xy"
    assert places(translated) == ["1:0", "1:0"]


def test_coarse_names_the_only_leaf_or_says_mixed() -> None:
    one, two = traced("ab", 3), traced("c", 4)
    assert places(coarse("xy", (one,))) == ["3:~", "3:~"]
    assert places(coarse("x", ({"k": [one, ("lit",)]}, 5))) == ["3:~"]
    assert places(coarse("x", ({one: 1},))) == ["3:~"]
    assert places(coarse("x", (one, two))) == ["mixed"]
    assert places(coarse("x", (coarse("y", (one, two)),))) == ["mixed"]


def test_coarse_without_traced_sources_is_the_plain_text() -> None:
    plain = "xy"
    assert coarse(plain, ("a", ["b"], TracedText("literal"))) is plain


def test_substitution_gives_each_replacement_the_origin_of_its_character() -> None:
    replaced = substitute(traced("a<b"), lambda c: "&lt;" if c == "<" else c, "a&lt;b")
    assert replaced == "a&lt;b"
    assert offsets(replaced) == [0, 1, 1, 1, 1, 2]


def test_a_substitution_that_does_not_add_up_is_coarse_with_the_expected_text() -> None:
    replaced = substitute(traced("ab"), str.upper, "AX")
    assert replaced == "AX"
    assert places(replaced) == ["0:~", "0:~"]


def test_substitution_in_plain_text_is_what_was_expected() -> None:
    assert substitute("ab", str.upper, "AB") == "AB"


def test_replacing_keeps_marks() -> None:
    word = marked("-a-", (0, START), (2, END))
    assert marks_of(word.replace("-", "+")) == ((0, START), (2, END))


def test_growing_characters_keep_marks() -> None:
    assert marks_of(marked("ßa", (1, START), (2, END)).upper()) == ((2, START), (3, END))


def test_a_cut_at_the_end_does_not_double_a_mark() -> None:
    word = marked("ab", (2, END))
    assert marks_of(word[:2] + word[2:]) == ((2, END),)
