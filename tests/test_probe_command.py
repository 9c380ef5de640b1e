"""``lossmask probe`` on the embedded model and conversations, as typed and as printed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lossmask.cli import main
from lossmask.command_options import read_policy
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.prepared import load_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first eight of the embedded conversations."""
    folder = tmp_path_factory.mktemp("probe")
    rows = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[:8]
    (folder / "chats.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        given = ["prepare", folder / "chats.jsonl", "-t", DEMO_MODEL, "-o", folder / "prepared"]
        patch.setattr(sys, "argv", ["lossmask", *map(str, given)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder / "prepared"


def run(
    capsys: pytest.CaptureFixture[str], prepared: Path, *arguments: object
) -> tuple[int, list[str], str]:
    with pytest.MonkeyPatch.context() as patch:
        given = ["probe", prepared, "--device", "cpu", *arguments]
        patch.setattr(sys, "argv", ["lossmask", *map(str, given)])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as info:
            main()
    output = capsys.readouterr()
    lines = [line.rstrip() for line in output.out.splitlines()]
    return int(info.value.code or 0), lines, " ".join(output.err.split())


def test_it_prints_what_it_finds_and_writes_it_down(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, error = run(
        capsys,
        prepared,
        *("--model", DEMO_MODEL, "--against", DEMO_MODEL, "-o", tmp_path / "probed"),
        *("--json", tmp_path / "found.json", "--html", tmp_path / "page.html", "--show", 3),
        *("--learned-loss", 30, "--learned-first", 0, "--learned-count", 2),
    )
    assert code == 0
    assert "tokens/s" in error
    data = load_prepared(prepared)
    table = pq.read_table(tmp_path / "probed" / "part-00000.parquet")
    supervised = int((data.columns["labels"] != -100).sum())
    assert table.num_rows == supervised
    assert pq.read_table(tmp_path / "probed" / "before" / "part-00000.parquet").equals(table)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["tokens"] == supervised
    losses = table.column("loss").to_numpy()
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert {name: part["tokens"] for name, part in found["parts"].items()} == {
        "content, calls": int((table.column("token").to_numpy() != 2).sum()),
        "stop": int((table.column("token").to_numpy() == 2).sum()),
    }
    ids, counts = np.unique(table.column("token").to_numpy(), return_counts=True)
    learned = sorted(ids[counts >= 2].tolist())
    assert read_policy([found["policy"]], {}).ignore == tuple(learned)
    assert f"-p 'ignore={learned}'" in " ".join(" ".join(lines).split())
    assert any(line.startswith("example 3 (input row 3): ") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "<script" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_all_tokens_and_a_limit_are_as_asked(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--all-tokens", "--limit", 2, "--top-k", 3, "-o", tmp_path / "probed")
    code, lines, _ = run(capsys, prepared, "--model", DEMO_MODEL, *options)
    assert code == 0
    table = pq.read_table(tmp_path / "probed" / "part-00000.parquet")
    lengths = load_prepared(prepared).lengths[:2]
    assert table.num_rows == int((lengths - 1).sum())
    assert table.schema.field("top_ids").type.list_size == 3
    assert not any("not looked at" in line for line in lines)


def test_a_tokenizer_that_has_gone_is_asked_for(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(prepared, tmp_path / "moved")
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["tokenizer"]["path"] = "/no/such/tokenizer"
    (moved / "manifest.json").write_text(json.dumps(manifest))
    code, _, error = run(capsys, moved, "--model", DEMO_MODEL)
    assert code == 1
    assert "say where it is now (--tokenizer)" in error
    code, _, _ = run(capsys, moved, "--model", DEMO_MODEL, "-t", DEMO_MODEL, "--limit", 1)
    assert code == 0


def test_a_model_of_another_vocabulary_is_refused(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(DEMO_MODEL, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["sh"], vocabulary["re"] = vocabulary["re"], vocabulary["sh"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    code, _, error = run(capsys, prepared, "--model", other)
    assert code == 1
    assert "error (other_vocabulary)" in error
    assert "is 're' to the tokenizer that made it and 'sh' to that of the model" in error
    code, _, error = run(capsys, prepared, "--model", DEMO_MODEL, "--tokenizer", other)
    assert "error (other_vocabulary)" in error


def test_an_example_that_is_not_looked_at_is_refused(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, prepared, "--model", DEMO_MODEL, "--limit", 2, "--show", 2)
    assert code == 1
    assert "there is no example 2: the 2 that are looked at are numbered from 0 to 1." in error


def test_a_missing_model_is_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, prepared, "--model", "./no/such/model")
    assert code == 1
    assert "error (missing_model): there is no model at ./no/such/model" in error
