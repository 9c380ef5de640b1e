"""``lossmask report``: a file is written for data, and for a prepared folder the same file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lossmask.cli import main
from lossmask.embedded import DEMO_MODEL
from tests.scenarios import assistant, user


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lossmask", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as info:
            main()
    output = capsys.readouterr()
    return int(info.value.code or 0), output.out, " ".join(output.err.split())


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = [{"messages": [user(f"Q{k}"), assistant(f"A{k}")]} for k in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def data_of(page: Path) -> dict[str, Any]:
    [found] = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    data: dict[str, Any] = json.loads(found)
    return data


def test_one_file_is_written(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    code, out, _ = run(
        capsys, "report", chats, "-t", DEMO_MODEL, "-o", page, "--examples", 3, "-p", "stop=never"
    )
    assert code == 0
    assert out == f"{page}: 0.1 MB, 3 of 5 examples\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["chats.jsonl", "report.html"]
    data = data_of(page)
    assert [example["row"] for example in data["examples"]] == [0, 2, 4]
    assert ["policy", 'stop="never"'] in data["setting"]


def test_a_prepared_folder_has_the_report_of_what_it_was_made_from(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page, other = tmp_path / "prepared", tmp_path / "a.html", tmp_path / "b.html"
    options = ("-p", "weights.prompt=0.5", "--stop", "Q")
    assert run(capsys, "prepare", chats, "-t", DEMO_MODEL, "-o", folder, *options)[0] == 0
    assert run(capsys, "report", folder, "-o", page)[0] == 0
    assert run(capsys, "report", chats, "-t", DEMO_MODEL, "-o", other, *options)[0] == 0
    assert page.read_text() == other.read_text()


def test_options_of_its_own_are_refused_for_a_prepared_folder(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prepared"
    run(capsys, "prepare", chats, "-t", DEMO_MODEL, "-o", folder)
    code, _, error = run(capsys, "report", folder, "-t", DEMO_MODEL, "--max-length", 9)
    assert code == 1
    assert error == (
        f"error (prepared_already): {folder} is prepared already, with options of its own; leave "
        "out --tokenizer, --max-length, or give the data files instead"
    )


def test_data_that_is_no_longer_what_was_prepared_is_refused(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "prepared", tmp_path / "report.html"
    run(capsys, "prepare", chats, "-t", DEMO_MODEL, "-o", folder)
    chats.write_text(chats.read_text().split("\n")[0] + "\n")
    code, _, error = run(capsys, "report", folder, "-o", page)
    assert code == 1
    assert f"{folder} holds rows_in = 5, but {chats} come to 1" in error
    assert not page.exists()


def test_data_needs_a_tokenizer(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "report", chats)
    assert code == 1
    assert error == "error (no_tokenizer): give --tokenizer, a folder or hub id"


def test_an_output_that_cannot_be_written_is_refused_at_once(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "report.html"
    _, _, error = run(capsys, "report", chats, "-t", DEMO_MODEL, "-o", missing)
    assert error == (
        f"error (bad_output): --output {missing} cannot be: there is no {missing.parent}; name an "
        "HTML file"
    )
    code, _, error = run(capsys, "report", chats, "-t", DEMO_MODEL, "-o", tmp_path)
    assert code == 1
    assert error == f"error (bad_output): --output {tmp_path} is a folder; name an HTML file"
