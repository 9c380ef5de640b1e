"""What a person sees: exact lines, trained text in brackets, nothing that steers the terminal."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console, RenderableType

from lossmask import Encoder, Example, Finding, Lost, Rejection, Span
from lossmask.data_files import RawRow
from lossmask.embedded import DEMO_MODEL
from lossmask.explanations import FINDINGS
from lossmask.preparing import Counts
from lossmask.terminal import show_example, show_rejection, summary, visible
from tests.scenarios import Message, assistant, system, user


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def drawn(renderable: RenderableType, *, colour: bool = False, width: int = 80) -> list[str]:
    """Return the lines as a terminal of this width shows them, with colour codes if asked."""
    console = Console(
        file=StringIO(),
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
    )
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().split("\n")]


def shown(encoder: Encoder, messages: list[Message], *, colour: bool = False) -> list[str]:
    [example] = encoder.encode(messages)
    lines = drawn(show_example(example, messages, number=1, total=1, colour=colour), colour=colour)
    return lines


def body(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r".{13}│ ", line) and line[0] not in "│┃"]


def test_an_example_is_drawn_line_by_line(encoder: Encoder) -> None:
    lines = shown(encoder, [system("Be brief."), user("Hi"), assistant("Hello")])
    title, *rest = lines
    [example] = encoder.encode([system("Be brief."), user("Hi"), assistant("Hello")])
    count = example.supervised_count
    share = f"{count / len(example):.1%}"
    assert title == f"example 1 of 1: {len(example)} tokens, {count} supervised ({share}) ".ljust(
        80, "─"
    )
    assert rest == [
        "             │ <|im_start|>system⏎",
        "    0 system │ Be brief.<|im_end|>⏎",
        "             │ <|im_start|>user⏎",
        "      1 user │ Hi<|im_end|>⏎",
        "             │ <|im_start|>assistant⏎",
        " 2 assistant │ ⟦Hello<|im_end|>■⟧⏎",
        "",
        "message  role       tokens  trained  stop        trained text",
        "      0  system          7        -",
        "      1  user            2        -",
        "      2  assistant       1        2  <|im_end|>  Hello",
        "",
    ]


def test_the_title_counts_the_examples_of_the_row(encoder: Encoder) -> None:
    messages = [user("Hi"), assistant("Hello")]
    [example] = encoder.encode(messages)
    lines = drawn(show_example(example, messages, number=2, total=3, colour=False))
    assert lines[0].startswith("example 2 of 3: ")


def test_a_supervised_run_over_two_lines_is_bracketed_on_each(encoder: Encoder) -> None:
    lines = body(shown(encoder, [user("Q"), assistant("one\ntwo")]))
    assert lines[-2:] == [" 1 assistant │ ⟦one⏎⟧", "             │ ⟦two<|im_end|>■⟧⏎"]


def test_a_turn_out_of_the_loss_has_no_brackets(encoder: Encoder) -> None:
    messages = [user("Q"), assistant("no", train=False), user("Q"), assistant("yes")]
    lines = body(shown(encoder, messages))
    assert " 1 assistant │ no<|im_end|>⏎" in lines
    assert " 3 assistant │ ⟦yes<|im_end|>■⟧⏎" in lines


@pytest.mark.parametrize("character", ["👍🏽", "👨‍👩‍👧", "𒀀", "龘", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"])
def test_a_character_of_several_tokens_is_drawn_once(encoder: Encoder, character: str) -> None:
    tokens = encoder.tokenizer(character, add_special_tokens=False)["input_ids"]
    assert len(tokens) > len(character)
    lines = body(shown(encoder, [user(f"a{character}b"), assistant(f"c{character}d")]))
    assert lines[1] == f"      0 user │ a{visible(character)}b<|im_end|>⏎"
    assert lines[3] == f" 1 assistant │ ⟦c{visible(character)}d<|im_end|>■⟧⏎"


def test_escape_sequences_in_content_are_made_visible(encoder: Encoder) -> None:
    text = "\x1b[31mred\x1b[0m \x07\x08\x9b1m\r\u202egnol\u202c\x7f"
    for colour in (False, True):
        lines = shown(encoder, [user(text), assistant(text)], colour=colour)
        joined = "\n".join(lines)
        own = re.sub(r"\x1b\[[\d;]*m", "", joined)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", own)
        assert "\x1b[31mred" not in joined
    assert body(shown(encoder, [user("q"), assistant(text)]))[-1] == (
        " 1 assistant │ ⟦␛[31mred␛[0m ␇␈\\u009b1m␍\\u202egnol\\u202c␡<|im_end|>■⟧⏎"
    )


def test_markup_in_content_is_drawn_as_it_is(encoder: Encoder) -> None:
    lines = body(shown(encoder, [user("[bold]a[/bold]"), assistant("[/x] :smile: [red]")]))
    assert lines[1] == "      0 user │ [bold]a[/bold]<|im_end|>⏎"
    assert lines[3] == " 1 assistant │ ⟦[/x] :smile: [red]<|im_end|>■⟧⏎"


def styles(line: str) -> dict[str, str]:
    """Return text -> colour codes before it."""
    return {text: codes for codes, text in re.findall(r"\x1b\[([\d;]*)m([^\x1b]+)\x1b\[0m", line)}


def test_colour_tells_trained_text_from_the_rest_and_from_the_stop_token(
    encoder: Encoder,
) -> None:
    messages = [user("Hello"), assistant("Hello")]
    lines = shown(encoder, messages, colour=True)
    assert not any("⟦" in line or "⟧" in line for line in lines)
    prompt = styles(next(line for line in lines if "0 user" in line))
    answer = styles(next(line for line in lines if "1 assistant" in line))
    assert len({prompt["Hello"], answer["Hello"], answer["<|im_end|>"]}) == 3
    assert prompt["<|im_end|>"] != answer["<|im_end|>"]


def test_long_supervised_text_is_shortened_in_the_middle(encoder: Encoder) -> None:
    messages = [user("q"), assistant("start " + "x" * 300 + " end")]
    [example] = encoder.encode(messages)
    table = "\n".join(
        drawn(show_example(example, messages, number=1, total=1, colour=False), width=200)
    ).split("trained text")[1]
    assert "start xxx" in table
    assert "xxx … xxx" in table
    assert "xx end" in table
    assert "x" * 40 not in table


def with_finding(encoder: Encoder, detail: str) -> list[str]:
    messages = [user("q"), assistant("a")]
    [example] = encoder.encode(messages)
    noticed = Example(
        text=example.text,
        input_ids=example.input_ids,
        offsets=example.offsets,
        loss_weights=example.loss_weights,
        message_index=example.message_index,
        spans=example.spans,
        findings=(Finding("kind", detail, 1), Finding("other", "second", 1)),
    )
    return drawn(show_example(noticed, messages, number=1, total=1, colour=False))


def test_findings_stand_below_the_table(encoder: Encoder) -> None:
    assert with_finding(encoder, "first thing")[-3:] == ["kind: first thing", "other: second", ""]


@pytest.mark.parametrize("detail", ["at 'Hi [/INST] '", "at '[bold]x'"])
def test_brackets_in_a_finding_are_drawn_as_they_are(encoder: Encoder, detail: str) -> None:
    assert f"kind: {detail}" in with_finding(encoder, detail)


def test_a_rejection_names_place_message_and_reason() -> None:
    raw = RawRow("data.jsonl", 7, 3, b"")
    lines = drawn(show_rejection(raw, Rejection("slug", "what [happened]", 2)))
    assert lines[0].startswith("╭─ data.jsonl:7, message 2: slug ──")
    assert lines[1].startswith("│ what [happened] ")
    assert drawn(show_rejection(raw, Rejection("slug", "d", None)))[0].startswith(
        "╭─ data.jsonl:7: slug ──"
    )


@pytest.mark.parametrize("file", ["data[/x].jsonl", "data[bold].jsonl"])
def test_brackets_in_a_file_name_are_drawn_as_they_are(file: str) -> None:
    [title, *_] = drawn(show_rejection(RawRow(file, 7, 3, b""), Rejection("slug", "d", None)))
    assert file in title


def test_escape_sequences_in_a_rejection_are_made_visible() -> None:
    lines = drawn(show_rejection(RawRow("f", 1, 0, b""), Rejection("slug", "a\x1b[31mb", None)))
    assert "\x1b" not in "\n".join(lines)


def counts() -> Counts:
    return Counts(
        rows_in=1234,
        rows_kept=1230,
        rows_rejected=4,
        examples=1230,
        tokens=50_000,
        supervised_tokens=12_500,
        rejections=Counter(broken_json=1, missing_key=3),
        findings=Counter(no_stop_token=2),
    )


def inner(lines: list[str]) -> list[str]:
    return [line.strip("│ ") for line in lines if line.startswith("│")]


def test_the_summary_accounts_for_every_row() -> None:
    lines = drawn(summary(counts(), "out"), width=100)
    assert lines[0].startswith("╭─ prepared in out ──")
    assert inner(lines) == [
        "1,234  rows in",
        "1,230  kept",
        "4  rejected: see out/rejected.jsonl",
        "3    missing_key",
        "1    broken_json",
        "1,230  examples",
        "50,000  tokens",
        "12,500  supervised tokens (25.0%)",
        f"2  no_stop_token: {FINDINGS['no_stop_token']}",
    ]


def test_the_summary_says_what_truncation_took_away() -> None:
    cut = counts()
    cut.lost = Lost(tokens=12_500, supervised_tokens=2000, turns=30, examples=4, cut_replies=1)
    assert (
        "12,500  tokens lost to --max-length (20.0%), 2,000 of them supervised; turns lost: 30, "
        "whole examples: 4, replies cut: 1"
    ) in inner(drawn(summary(cut, "out"), width=200))


def test_an_example_that_trains_prompts_alone_is_drawn_without_spans(encoder: Encoder) -> None:
    messages = [user("Q"), assistant("A")]
    [example] = encoder.encode(messages)
    bare = replace(example, spans=())
    lines = drawn(show_example(bare, messages, number=1, total=1, colour=False))
    assert lines[-3:] == [
        "      0  user            1        -",
        "      1  assistant       1        -",
        "",
    ]


def test_the_summary_says_why_there_are_more_examples_than_rows() -> None:
    more = counts()
    more.examples = 1300
    text = " ".join(inner(drawn(summary(more, "out"), width=200)))
    assert "1,300  examples, 70 more than rows: the template rewrites earlier turns" in text


def test_a_summary_without_a_kept_row_divides_by_nothing() -> None:
    lines = inner(drawn(summary(Counts(rows_in=1, rows_rejected=1), "out")))
    assert "0  supervised tokens (0.0%)" in lines


def test_a_summary_without_rejections_points_to_no_file() -> None:
    lines = inner(drawn(summary(Counts(rows_in=1, rows_kept=1, examples=1), "out")))
    assert "0  rejected" in lines


@pytest.mark.parametrize("output", ["out[/x]", "out[bold]"])
def test_brackets_in_the_output_folder_are_drawn_as_they_are(output: str) -> None:
    lines = drawn(summary(counts(), output), width=100)
    assert f"prepared in {output}" in lines[0]
    assert f"4  rejected: see {output}/rejected.jsonl" in inner(lines)


def test_every_finding_that_summaries_explain_is_a_slug() -> None:
    assert all(re.fullmatch("[a-z_]+", kind) and text for kind, text in FINDINGS.items())


def test_a_stop_token_inside_a_shared_character_is_drawn_with_it() -> None:
    example = Example(
        text="a😀",
        input_ids=np.array([1, 2, 3], np.int32),
        offsets=np.array([[0, 1], [1, 2], [1, 2]], np.int32),
        loss_weights=np.ones(3, np.float32),
        message_index=np.zeros(3, np.int32),
        spans=(Span(0, 0, 2, 0, 3, "😀"),),
    )
    lines = drawn(show_example(example, [assistant("a")], number=1, total=1, colour=False))
    assert lines[1] == " 0 assistant │ ⟦a😀■⟧"
