"""``lossmask convert``, and the options of layout and policy, as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lossmask.cli import main
from lossmask.embedded import DEMO_MODEL
from lossmask.prepared import load_prepared
from tests.scenarios import assistant, user


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lossmask", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
    output = capsys.readouterr()
    return int(info.value.code or 0), " ".join(output.out.split()), " ".join(output.err.split())


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_convert_reports_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = write(tmp_path / "in.jsonl", {"messages": [user("Q"), assistant("A", weight=0.5)]})
    code, out, _ = run(capsys, "convert", data, "-o", tmp_path / "o", "--to", "axolotl")
    assert code == 0
    assert "1 rows in, 1 converted to axolotl" in out
    assert "weight 0.5 becomes train: true" in out
    code, _, _ = run(capsys, "convert", data, "-o", tmp_path / "p", "--to", "axolotl", "--lossless")
    assert code == 1
    code, _, err = run(capsys, "convert", data, "-o", tmp_path / "q", "--to", "axolotle")
    assert (code, "did you mean 'axolotl'?" in err) == (1, True)
    data = write(tmp_path / "bad.jsonl", {"messages": [user("Q"), assistant("A")]}, {"txt": 1})
    code, out, _ = run(capsys, "convert", data, "-o", tmp_path / "r", "--to", "alpaca")
    assert (code, "1 rejected" in out, "unknown_format" in out) == (1, True, True)


def test_prepare_takes_a_layout_a_style_and_a_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Add.", "input": "1 2", "answer": "3", "weight": 2}
    data, output = write(tmp_path / "in.jsonl", row), tmp_path / "out"
    layout = ["-l", "columns.instruction=question", "-l", "columns.output=answer"]
    policy = ["-p", "weights.prompt=0.5", "-p", "stop=never"]
    code, _, err = run(
        capsys, "prepare", data, "-t", DEMO_MODEL, "-o", output, "--template", "alpaca",
        *layout, *policy,
    )  # fmt: skip
    assert code == 0, err
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["policy"]["weights"] == {"prompt": 0.5}
    assert manifest["layout"]["columns"] == {"instruction": "question", "output": "answer"}
    assert manifest["layout"]["input_separator"] == "\n\n### Input:\n"
    item = load_prepared(output)[0]
    assert sorted(set(item["loss_weights"].tolist())) == [0.0, 1.0, 2.0]


def test_a_layout_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "in.jsonl", {"messages": [user("Q"), assistant("A")]})
    code, _, err = run(capsys, "show", data, "-t", DEMO_MODEL, "-l", "format=sharegtp")
    assert (code, "did you mean 'sharegpt'?" in err) == (1, True)


def test_show_draws_text_and_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "1+1=", "completion": " 2"},
        {"input_ids": [300, 301], "labels": [-100, 301]},
    ]
    data = write(tmp_path / "in.jsonl", *rows)
    code, out, _ = run(capsys, "show", data, "-t", DEMO_MODEL)
    assert code == 0
    assert "⟦ 2<|im_end|>■⟧" in out
    code, out, _ = run(capsys, "show", data, "-t", DEMO_MODEL, "-n", "1")
    assert code == 0
    assert "2 tokens, 1 supervised" in out
