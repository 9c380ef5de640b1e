"""Exact lines at 80 columns without colour, exact styles with it."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment

from lossmask import Encoder, Example, Finding, Policy, Span
from lossmask.embedded import DEMO_MODEL
from lossmask.token_drawing import STOP_STYLE, TokenDrawing, role_style, trained_style
from tests.scenarios import Message, assistant, system, tool, user


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def lines(
    example: Example, messages: list[Message], *, width: int = 80, ids: bool = False
) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(TokenDrawing(example, messages, colour=False, ids=ids))
    assert isinstance(console.file, StringIO)
    return [line.rstrip(" ") for line in console.file.getvalue().split("\n")[:-1]]


def drawn(encoder: Encoder, messages: list[Message], **options: Any) -> list[str]:
    [example] = encoder.encode(messages)
    return lines(example, messages, **options)


def spans(example: Example, messages: list[Message]) -> list[tuple[str, str]]:
    """Return what is drawn in colour, text by text, each with its style."""
    console = Console(width=80, color_system="truecolor", force_terminal=True, file=StringIO())
    rendered = console.render(TokenDrawing(example, messages, colour=True))
    found: list[tuple[str, str]] = []
    for text, style, _ in Segment.simplify(rendered):
        found.append((text, str(style)))
    return found


def test_a_long_line_goes_on_behind_the_margin(encoder: Encoder) -> None:
    [_, _, _, *answer] = drawn(encoder, [user("Q"), assistant("Santiago. " * 12 + "End.")])
    assert answer == [
        " 1 assistant │ ⟦Santiago. Santiago. Santiago. Santiago. Santiago. Santiago. Sant",
        "             │ iago. Santiago. Santiago. Santiago. Santiago. Santiago. End.<|im_",
        "             │ end|>■⟧⏎",
    ]
    assert {cell_len(line) for line in answer[:2]} == {80}


def test_a_message_is_named_once_and_again_after_another(encoder: Encoder) -> None:
    margins = [
        line.split("│")[0].strip()
        for line in drawn(encoder, [system("a\nb"), user("Q\n\nq"), assistant("A")])
    ]
    assert margins == ["", "0 system", "", "", "1 user", "", "", "", "2 assistant"]


def test_weights_other_than_one_stand_in_the_bracket(encoder: Encoder) -> None:
    messages = [user("q")]
    for weight in (0.5, -1, 2, 0):
        messages += [assistant("a", weight=weight), user("q")]
    found = [line for line in drawn(encoder, [*messages, assistant("z")]) if "assistant │" in line]
    assert found == [
        " 1 assistant │ ⟦0.5|a<|im_end|>■⟧⏎",
        " 3 assistant │ ⟦-1|a<|im_end|>■⟧⏎",
        " 5 assistant │ ⟦2|a<|im_end|>■⟧⏎",
        " 7 assistant │ a<|im_end|>⏎",
        " 9 assistant │ ⟦z<|im_end|>■⟧⏎",
    ]


def test_runs_of_different_weights_have_brackets_of_their_own(encoder: Encoder) -> None:
    weighted = assistant("one two", weights=[{"start": 3, "end": 7, "weight": 0.25}])
    assert drawn(encoder, [user("q"), weighted])[-1] == (
        " 1 assistant │ ⟦one⟧⟦0.25| two⟧⟦<|im_end|>■⟧⏎"
    )


def test_a_stop_token_that_is_not_trained_is_a_stop_all_the_same() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy(stop="never"))
    assert drawn(encoder, [user("q"), assistant("a")])[-1] == " 1 assistant │ ⟦a⟧<|im_end|>■⏎"


def test_white_space_that_nobody_sees_is_drawn(encoder: Encoder) -> None:
    text = " a b  c \n\t d\r"
    assert drawn(encoder, [user(text), assistant("x")])[1:3] == [
        "      0 user │ ·a b··c·⏎",
        "             │ ⇥ d␍<|im_end|>⏎",
    ]


def test_hebrew_and_arabic_are_isolated_run_by_run(encoder: Encoder) -> None:
    assert drawn(encoder, [user("say שלום עולם"), assistant("العربية ok")])[1::2] == [
        "      0 user │ \u2068say שלום עולם\u2069<|im_end|>⏎",
        " 1 assistant │ ⟦\u2068العربية ok\u2069<|im_end|>■⟧⏎",
    ]


def test_nothing_in_a_message_turns_the_line_around(encoder: Encoder) -> None:
    for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        messages = [user(f"a{chr(code)}b"), assistant("x")]
        assert drawn(encoder, messages)[1] == f"      0 user │ a\\u{code:04x}b<|im_end|>⏎"


@pytest.mark.parametrize("sign", ["👨‍👩‍👧", "🇨🇱", "👍🏽", "❤️", "e\u0301", "कि", "中"])
def test_signs_of_several_characters_are_never_torn_apart(sign: str, encoder: Encoder) -> None:
    for width in range(24, 40):
        found = drawn(encoder, [user("Q"), assistant(sign * 20)], width=width)
        assert all(cell_len(line) <= width for line in found)
        first = next(n for n, line in enumerate(found) if line.startswith(" 1 assistant"))
        own = [line.split("│ ")[1].lstrip("⟦").split("<")[0] for line in found[first:]]
        assert "".join(own).startswith(sign * 20)
        for line in own[
            : 1 + next(n for n, _ in enumerate(own) if sign * 20 in "".join(own[: n + 1]))
        ]:
            assert line == sign * (len(line) // len(sign))


def test_ids_stand_below_their_tokens(encoder: Encoder) -> None:
    messages = [user("Hi"), assistant("Hello 👍 you")]
    [example] = encoder.encode(messages)
    *_, above, below = lines(example, messages, ids=True)
    assert above == " 1 assistant │ ⟦Hello ·   👍              ·you <|im_end|>■⟧ ⏎"
    ids = example.input_ids.tolist()
    assert re.findall(r"\d[\d+]*", below) == [
        "+".join(map(str, each))
        for each in (ids[10:11], ids[11:12], ids[12:16], ids[16:17], ids[17:18], ids[18:])
    ]
    for token, text in ((10, "Hello"), (16, "·you"), (17, "<|im_end|>")):
        column = cell_len(above[: above.index(text)])
        assert below[column:].startswith(str(ids[token]))


def test_columns_of_ids_fit_the_width(encoder: Encoder) -> None:
    for width in (30, 47, 80):
        found = drawn(encoder, [user("Q " * 30), assistant("word " * 30)], width=width, ids=True)
        assert max(map(cell_len, found)) <= width


def test_an_example_that_straddles_is_marked_where_the_prompt_ends(encoder: Encoder) -> None:
    messages = [user("q"), assistant("yes")]
    [example] = encoder.encode(messages)
    straddling = replace(example, findings=(Finding("boundary_straddle", "…", 1),))
    assert lines(straddling, messages)[-1] == " 1 assistant │ ┊⟦yes<|im_end|>■⟧⏎"
    assert ("┊", "bold #d08700") in spans(straddling, messages)


def test_each_author_has_a_colour_and_each_weight_a_green(encoder: Encoder) -> None:
    messages = [system("a"), user("b"), assistant("c"), user("d"), assistant("e", weight=0.5)]
    [example] = encoder.encode(messages)
    styled = spans(example, messages)
    by_text = {text.strip(): style for text, style in styled}
    assert by_text["a"] in (role_style("system", 0), role_style("system", 1))
    assert by_text["b"] in (role_style("user", 0), role_style("user", 1))
    assert by_text["c"] in (trained_style(1, 0), trained_style(1, 1))
    assert by_text["e"] in (trained_style(0.5, 0), trained_style(0.5, 1))
    assert ("<|im_end|>", STOP_STYLE) in styled
    assert {role_style(None, 0), role_style(None, 1)} & {
        style for text, style in styled if text == "<|im_end|>"
    }
    assert not any("⟦" in text or "■" in text for text, _ in styled)
    assert trained_style(1, 0) == "#06351a on #8fe3b0"


def test_neighbours_have_different_shades(encoder: Encoder) -> None:
    messages = [user("b"), assistant("Santiago de Chile 👍 no")]
    [example] = encoder.encode(messages)
    grounds = [style for _, style in spans(example, messages) if " on " in style]
    assert len(grounds) > 5
    assert all(a != b for a, b in pairwise(grounds))


def test_roles_have_different_colours() -> None:
    names = ("system", "user", "assistant", "tool", "narrator", None)
    assert len({role_style(name) for name in names}) == len(names)


def test_messages_without_roles_are_numbered() -> None:
    example = Example(
        text="ab",
        input_ids=np.array([1, 2], np.int32),
        offsets=np.array([[0, 1], [1, 2]], np.int32),
        loss_weights=np.array([0, 1], np.float32),
        message_index=np.array([-1, 7], np.int32),
        spans=(Span(7, 1, 2, 1, 2, None),),
    )
    assert lines(example, []) == ["           7 │ a⟦b⟧"]


def test_a_role_that_is_too_long_is_cut_and_steers_nothing(encoder: Encoder) -> None:
    messages = [user("Q"), tool("T"), assistant("A")]
    [example] = encoder.encode(messages)
    named = [*messages[:1], {"role": "\x1b[31m" + "x" * 40}, *messages[2:]]
    assert lines(example, named)[3] == "1 ␛[31mxxxxxxxxxxxx… │ T<|im_end|>⏎"
