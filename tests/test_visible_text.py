"""What nobody sees is drawn, nothing steers the terminal, no character is torn apart."""

from __future__ import annotations

import pytest

from lossmask.visible_text import clusters, isolated, on_its_own, runs_from_right, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "a b"),
        ("\n\t\r\x00\x7f", "⏎⇥␍␀␡"),
        ("\u00a0\u200b\u2028\ufeff", "\\u00a0\\u200b\\u2028\\ufeff"),
        ("é e\u0301 שלום 👨‍👩‍👧", "é e\u0301 שלום 👨‍👩‍👧"),
        ("\U000e0067\ud83d", "\\ue0067\\ud83d"),
        ("[red]", "[red]"),
    ],
)
def test_white_space_and_control_characters_are_made_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])
def test_what_turns_text_around_is_spelled_out(code: int) -> None:
    assert visible(f"a{chr(code)}b") == f"a\\u{code:04x}b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab", ["a", "b"]),
        ("e\u0301x", ["e\u0301", "x"]),
        ("👨\u200d👩\u200d👧!", ["👨\u200d👩\u200d👧", "!"]),
        ("👍🏽👍", ["👍🏽", "👍"]),
        ("❤\ufe0fa", ["❤\ufe0f", "a"]),
        ("🇨🇱🇵🇪🇦", ["🇨🇱", "🇵🇪", "🇦"]),
        ("a🇨🇱", ["a", "🇨🇱"]),
        ("\u0301a", ["\u0301", "a"]),
        ("कि", ["कि"]),
    ],
)
def test_clusters_are_what_is_one_sign(text: str, expected: list[str]) -> None:
    assert list(clusters(text)) == expected


@pytest.mark.parametrize("mark", ["\u0301", "\u200d👩", "\ufe0f"])
def test_a_mark_at_the_beginning_stands_on_a_circle(mark: str) -> None:
    assert on_its_own(mark) == "\u25cc" + mark
    assert on_its_own("a" + mark) == "a" + mark
    assert on_its_own("") == ""


@pytest.mark.parametrize("text", ["שלום", "a العربية", "١٢"])
def test_text_from_right_to_left_is_isolated(text: str) -> None:
    assert runs_from_right(text)
    assert isolated(text) == ("\u2068", "\u2069")


@pytest.mark.parametrize("text", ["", "abc", "é中👍", "12"])
def test_other_text_is_left_alone(text: str) -> None:
    assert not runs_from_right(text)
    assert isolated(text) == ("", "")
