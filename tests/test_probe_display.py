"""A probe at the terminal: every token by its loss, in colour or with bars, within the width."""

from __future__ import annotations

import io

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.example import Example
from lossmask.learned_tokens import Learned, find_learned
from lossmask.probe_display import (
    level_of,
    show_findings,
    show_probed_example,
    show_spread,
    show_surprises,
)
from lossmask.probed_tokens import ProbedTokens
from lossmask.token_text import TokenTexts

ENCODER = Encoder.from_pretrained(DEMO_MODEL)
TEXTS = TokenTexts(ENCODER.tokenizer)


def encoded(*contents: str) -> Example:
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(contents)]
    [example] = ENCODER.encode(messages)
    return example


def probed(example: Example, losses: list[float]) -> ProbedTokens:
    """Give the tokens in the loss these losses, the last one as often as needed."""
    positions = np.flatnonzero(example.loss_mask)
    n = len(positions)
    values = np.array([*losses, *[losses[-1]] * n][:n], np.float32)
    guesses = np.array([40, 41], np.int32)
    return ProbedTokens(
        example=np.zeros(n, np.int32),
        position=positions.astype(np.int32),
        token=example.input_ids[positions],
        weight=np.ones(n, np.float32),
        loss=values,
        rank=(values > 0.5).astype(np.int32),
        top_ids=np.tile(guesses, (n, 1)),
        top_logprobs=np.log(np.tile(np.array([0.75, 0.25], np.float32), (n, 1))),
    )


def printed(drawn: RenderableType, *, colour: bool = False, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        no_color=not colour,
    )
    console.print(drawn)
    return stream.getvalue()


def lines_of(drawn: RenderableType, *, width: int = 80) -> list[str]:
    return [line.rstrip() for line in printed(drawn, width=width).splitlines()]


def test_without_colour_a_bar_below_each_token_tells_its_loss() -> None:
    example = encoded("Hi", "Zx q")
    tokens = probed(example, [5.0, 0.6, 0.01])
    drawn = show_probed_example(example, tokens, number=3, row=9, width=80, colour=False)
    lines = lines_of(drawn)
    title = f"example 3 (input row 9): {len(tokens)} of {len(example)} tokens predicted"
    assert lines[1].startswith(f"{title}, mean loss {tokens.loss.mean():.4f}")
    text, bars = lines[-2:]
    assert text == "   1 │ Zx q<|im_end|>⏎"
    assert len(tokens) >= 4
    pieces = [TEXTS.text_of(token) for token in tokens.token.tolist()]
    bars_of = ["▆", "▃", *["▁"] * (len(pieces) - 2)]
    expected = "".join(bar * len(piece) for bar, piece in zip(bars_of, pieces, strict=True))
    assert bars == f"     │ {expected}"


def test_with_colour_each_token_has_that_of_its_level() -> None:
    example = encoded("Hi", "Hello")
    tokens = probed(example, [9.0, 0.01])
    drawn = show_probed_example(example, tokens, number=0, row=0, width=80, colour=True)
    shown = printed(drawn, colour=True)
    first = TEXTS.text_of(int(tokens.token[0]))
    assert f"\x1b[38;2;255;255;255;48;2;160;18;48m{first}" in shown
    assert "\x1b[1;4;38;2;10;64;33;48;2;166;229;190m<|im_end|>" in shown
    assert "▁" not in shown


def test_lines_that_nothing_is_asked_of_are_left_out_and_counted() -> None:
    example = encoded("one\n" * 6 + "last", "Hello", "more", "Bye")
    tokens = probed(example, [0.1])
    kept = tokens.taken(tokens.position < example.spans[0].token_end)
    lines = lines_of(show_probed_example(example, kept, number=0, row=0, width=80, colour=False))
    body = [line for line in lines if "│" in line or "┆" in line]
    assert body[1] == "   0 │ last<|im_end|>⏎"
    first = int((example.offsets[:, 0] < example.text.index("last")).sum())
    assert body[0].split("┆ ")[1].split(" ")[0] == str(first)
    last = body[-1].split("┆ ")[1].split(" ")[0]
    behind = example.text.index("Hello<|im_end|>\n") + len("Hello<|im_end|>\n")
    assert int(last) == int((example.offsets[:, 0] >= behind).sum())


def test_long_lines_wrap_with_their_bars_at_any_width() -> None:
    example = encoded("Hi", "漢字 😀 " * 30)
    tokens = probed(example, [3.0, 0.01, 0.7, 9.0])
    for width in (20, 41, 80):
        lines = lines_of(
            show_probed_example(example, tokens, number=0, row=0, width=width, colour=False),
            width=width,
        )[2:]
        assert all(cell_len(line) <= width for line in lines)
        text = "".join(line[7:] for line in lines[::1] if "│" in line and "漢" in line)
        assert text.count("漢") == 30


def test_nothing_in_a_text_steers_the_terminal() -> None:
    example = encoded("Hi", "\x1b[31m[red]x[/red]\u202e\x07")
    tokens = probed(example, [1.0])
    everything = [
        show_probed_example(example, tokens, number=0, row=0, width=80, colour=False),
        show_surprises(tokens, lambda number: example, TEXTS, count=50),
        show_findings(find_learned(tokens, criterion=Learned(mean_loss=9, first=0)), TEXTS),
    ]
    shown = "".join(printed(each) for each in everything)
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "[red]x[/red]" in shown


def test_findings_name_the_setting_and_fit_80_columns() -> None:
    example = encoded("Hi", "a b a b a b a b a b")
    tokens = probed(example, [0.9, 0.7, *[0.01] * 7, 1.5, 0.01])
    found = find_learned(tokens, stop_ids=[2], criterion=Learned(count=3))
    lines = lines_of(show_findings(found, TEXTS, {"ignore": ["No"]}, before=found))
    shown = "\n".join(lines)
    assert found.learned
    ids = ", ".join(str(token) for token in sorted(kind.token for kind in found.learned))
    assert f"""  -p 'ignore=["No", {ids}]'""" in lines
    assert "mean loss below 0.05, ranked first in at least 95% of at least 3 places" in shown
    assert f"The loss is {found.loss:.4f} with them and {found.loss_without:.4f} without." in (
        " ".join(shown.split())
    )
    assert all(cell_len(line) <= 80 for line in lines)
    header = next(line for line in lines if line.startswith("part"))
    assert header.split() == [
        *["part", "tokens", "loss", "before", "loss", "first", "before", "ranked", "first"]
    ]


def test_where_nothing_is_learned_that_is_said() -> None:
    found = find_learned(probed(encoded("Hi", "Hello"), [2.0]))
    assert "No token of the data is: nothing to ignore." in printed(show_findings(found, TEXTS))


def test_surprises_come_greatest_first_with_what_was_expected() -> None:
    example = encoded("Hi", "Hello you")
    tokens = probed(example, [0.5, 7.25, 3.0, 0.1])
    lines = lines_of(show_surprises(tokens, lambda number: example, TEXTS, count=2))
    rows = [line.split() for line in lines[3:]]
    assert [row[1] for row in rows] == [str(tokens.position[1]), str(tokens.position[2])]
    assert "7.25" in rows[0]
    assert "3.00" in rows[1]
    assert rows[0][-4:] == [TEXTS.text_of(40).strip() or "·", "75%", TEXTS.text_of(41), "25%"]
    assert len(rows) == 2


def test_the_spread_shows_shares_of_tokens_and_of_loss() -> None:
    example = encoded("Hi", "Hello you")
    tokens = probed(example, [8.0, 0.0])
    n = len(tokens)
    text, loss, legend, *_ = lines_of(show_spread(tokens, width=80, colour=False))
    high = round(72 / n)
    assert text == "tokens  " + "▁" * (72 - high) + "▇" * high
    assert loss == "loss    " + "▇" * 72
    assert "▇ 8+" in legend
    shown = printed(show_spread(tokens, width=80, colour=True), colour=True)
    assert "100%" in shown


def test_levels_begin_at_their_border() -> None:
    assert [level_of(loss) for loss in (0.0, 0.04999, 0.05, 7.9, 8.0, 99.0)] == [0, 0, 1, 5, 6, 6]
