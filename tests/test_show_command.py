"""The command line of ``show``: which rows, which folder, which packs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lossmask.embedded import DEMO_MODEL
from tests.scenarios import assistant, user
from tests.test_cli import Command, write
from tests.test_cli import lossmask as lossmask

TOKENIZER = str(DEMO_MODEL)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"messages": [user(f"Q{n}"), assistant(f"A{n}")]} for n in range(5)]
    rows[3] = {"messages": [user("Q3")]}
    return write(tmp_path / "chats.jsonl", *rows)


def answers(out: str) -> list[str]:
    return re.findall(r"⟦(\w\d)<", out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["A0"]),
        (["--row", "1"], ["A1"]),
        (["-n", "2", "-n", "0"], ["A0", "A2"]),
        (["--rows", "0-1,4"], ["A0", "A1", "A4"]),
        (["--rows", "0", "--row", "4"], ["A0", "A4"]),
    ],
)
def test_the_rows_that_are_asked_for_are_shown(
    options: list[str], expected: list[str], lossmask: Command, data: Path
) -> None:
    result = lossmask("show", data, "-t", TOKENIZER, *options)
    assert (result.code, answers(result.out)) == (0, expected)


def test_all_rows_go_on_behind_one_that_is_rejected(lossmask: Command, data: Path) -> None:
    result = lossmask("show", data, "-t", TOKENIZER, "--all")
    assert result.code == 1
    assert answers(result.out) == ["A0", "A1", "A2", "A4"]
    assert f"{data}:4: no_assistant" in result.out
    assert result.out.index(f"{data}:4: no_assistant") < result.out.index(f", {data}:5")


def test_ids_stand_below(lossmask: Command, data: Path) -> None:
    result = lossmask("show", data, "-t", TOKENIZER, "--ids")
    lines = result.out.split("\n")
    at = next(number for number, line in enumerate(lines) if "1 assistant │" in line)
    assert lines[at].rstrip() == " 1 assistant │ ⟦A  0  <|im_end|>■⟧ ⏎"
    assert lines[at + 1].rstrip() == "             │  35 18 2            201"


@pytest.fixture
def prepared(lossmask: Command, data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    assert lossmask("prepare", data, "-t", TOKENIZER, "-o", folder).code == 0
    return folder


def test_a_prepared_folder_is_shown_by_the_rows_it_was_made_of(
    lossmask: Command, prepared: Path
) -> None:
    result = lossmask("show", prepared, "--rows", "1,3-4")
    assert result.code == 0
    assert [line.rstrip(" ─") for line in result.out.split("\n") if "example" in line] == [
        "example 1 of 1: 14 tokens, 3 supervised (21.4%), row 1",
        "row 3 gave no example: see rejected.jsonl of the folder",
        "example 1 of 1: 14 tokens, 3 supervised (21.4%), row 4",
    ]
    assert "           1 │ ⟦A1<|im_end|>■⟧⏎\n" in result.out
    result = lossmask("show", prepared, "--row", "5")
    assert (result.code, "has 5 rows, numbered from 0: there is no row 5" in result.err) == (
        1,
        True,
    )


def test_a_pack_is_shown_with_borders_and_positions(lossmask: Command, prepared: Path) -> None:
    result = lossmask("show", prepared, "--packed", "--max-length", "32", "--all")
    assert result.code == 0
    borders = [line.rstrip(" ─") for line in result.out.split("\n") if "──" in line]
    members = [re.search(r"example (\d) \(row (\d)\)", line) for line in borders]
    assert sorted(found.groups() for found in members if found) == [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
        ("3", "4"),
    ]
    assert [line.split(": ")[0] for line in borders] == [
        "positions 0 to 13 of the pack, 0 to 13 of the document",
        "positions 14 to 27 of the pack, 0 to 13 of the document",
        "end of pack 0, position 27",
        "positions 0 to 13 of the pack, 0 to 13 of the document",
        "positions 14 to 27 of the pack, 0 to 13 of the document",
        "end of pack 1, position 27",
    ]
    assert sorted(answers(result.out)) == ["A0", "A1", "A2", "A4"]
    assert "pack 1: 28 of 32 tokens (87.5%), 2 examples" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--packed"], "--packed needs --max-length: the tokens of a pack"),
        (["--packed", "--max-length", "32", "--row", "2"], "has 2 packs, numbered from 0"),
        (["--packed", "--max-length", "3"], "pack to 14 or more"),
        (["--max-length", "32"], "--max-length: a prepared folder is shown as it was prepared"),
        (["-p", "stop=never", "--train-on", "all"], "--policy, --train-on: a prepared folder"),
    ],
)
def test_what_a_prepared_folder_cannot_show_is_an_error(
    options: list[str], message: str, lossmask: Command, prepared: Path
) -> None:
    result = lossmask("show", prepared, *options)
    assert result.code == 1
    assert message in result.err.replace("\n", " ")


def test_data_that_is_not_prepared_has_no_packs(lossmask: Command, data: Path) -> None:
    result = lossmask("show", data, "--packed", "--max-length", "32")
    assert result.code == 1
    assert f"--packed shows packs of a folder that `prepare` wrote, and {data} is none" in (
        result.err.replace("\n", " ")
    )


def test_a_prepared_folder_whose_tokenizer_is_gone_asks_for_one(
    lossmask: Command, prepared: Path
) -> None:
    result = lossmask("show", prepared, "-t", "./nowhere")  # no name of the hub
    assert result.code == 1
    assert "cannot be shown" in result.err
    assert "Name the tokenizer with --tokenizer" in " ".join(result.err.split())
