"""Whole files converted: every row accounted for, every loss reported with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossmask import InputError
from lossmask.converting_files import convert_files
from lossmask.layout import Layout
from tests.scenarios import assistant, system, user

PLAIN = {"messages": [user("Q"), assistant("A")]}
WEIGHED = {"messages": [system("S"), user("Q"), assistant("A", weight=0.5)]}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_in_are_rows_converted_and_rows_rejected(tmp_path: Path) -> None:
    data = write(tmp_path / "in.jsonl", PLAIN, "{broken", WEIGHED, {"txt": "x"})
    output = tmp_path / "out" / "axolotl.jsonl"
    done = convert_files([data], output, "axolotl")
    assert (done.rows_in, done.rows_converted, done.rows_lossy) == (4, 2, 1)
    assert len(read(output)) == 2
    assert done.losses == {"weight 0.5 becomes train: true": (1, [f"{data}:3, message 2"])}
    assert {reason: count for reason, (count, _) in done.rejections.items()} == {
        "broken_json": 1,
        "unknown_format": 1,
    }
    rejected = read(tmp_path / "out" / "axolotl.jsonl.rejected.jsonl")
    assert [(r["line"], r["reason"], r["original"]) for r in rejected] == [
        (2, "broken_json", "{broken"),
        (4, "unknown_format", {"txt": "x"}),
    ]
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "axolotl.jsonl",
        "axolotl.jsonl.rejected.jsonl",
    ]


def test_there_and_back_is_the_same_row(tmp_path: Path) -> None:
    rows = [
        {"messages": [system("S"), user("Q é"), assistant("A"), user("Q"), assistant("A")]},
        {"messages": [user("Q"), assistant("A", train=False), user("R"), assistant("B")]},
    ]
    data = write(tmp_path / "in.jsonl", *rows)
    for to in ("openai", "axolotl", "swift", "sharegpt"):
        there, back = tmp_path / f"{to}.jsonl", tmp_path / f"{to}.back.jsonl"
        first = convert_files([data], tmp_path / f"{to}.openai.jsonl", "openai")
        done = convert_files([data], there, to)
        assert (first.rows_lossy, done.rows_lossy, done.rejections) == (0, 0, {})
        convert_files([there], back, "openai")
        assert read(back) == read(tmp_path / f"{to}.openai.jsonl")


def test_an_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    data, output = write(tmp_path / "in.jsonl", PLAIN), tmp_path / "out.jsonl"
    output.write_text("mine")
    with pytest.raises(InputError, match="exists: choose another, or replace it"):
        convert_files([data], output, "alpaca")
    assert output.read_text() == "mine"
    convert_files([data], output, "alpaca", overwrite=True)
    assert read(output) == [{"instruction": "Q", "input": "", "output": "A"}]


def test_a_layout_and_progress(tmp_path: Path) -> None:
    row = {"dialog": [{"speaker": "x", "content": "Q"}, {"speaker": "bot", "content": "A"}]}
    data = write(tmp_path / "in.jsonl", row)
    layout = Layout(
        columns={"messages": "dialog"},
        message_keys={"role": "speaker"},
        roles={"x": "user", "bot": "assistant"},
    )
    sizes: list[int] = []
    convert_files([data], tmp_path / "o", "openai", layout=layout, progress=sizes.append)
    assert read(tmp_path / "o") == [PLAIN]
    assert sum(sizes) == data.stat().st_size


@pytest.mark.parametrize(
    ("rows", "to", "message"),
    [
        ([PLAIN], "alpacca", "cannot convert to 'alpacca'; did you mean 'alpaca'?"),
        ([""], "alpaca", "no rows in"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(
    tmp_path: Path, rows: list[Any], to: str, message: str
) -> None:
    data = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(InputError) as info:
        convert_files([data], tmp_path / "out.jsonl", to)
    assert message in str(info.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
