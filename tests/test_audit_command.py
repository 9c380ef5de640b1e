"""``lossmask audit``: exit codes, JSON, options that make no sense together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lossmask.audit_command import is_failure
from lossmask.auditing import Audit
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.tallies import Tally
from tests.scenarios import assistant, user
from tests.test_cli import Command

GOOD = {"messages": [user("Q0?"), assistant("A1.")]}
LEAKED = {"messages": [user("Q2?"), assistant("A3.")]}
BAD = {"messages": [user("Q0?")]}


@pytest.fixture
def lossmask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Command(monkeypatch, capsys)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (None, (False, False, False)),
        ("text_trimmed", (False, False, False)),
        ("system_dropped", (False, True, False)),
        ("eval_leak", (True, True, False)),
    ],
)
def test_a_severity_fails_where_it_is_asked_to(kind: str | None, codes: tuple[bool, ...]) -> None:
    audit = Audit(rows_in=1, rows_kept=1)
    if kind:
        audit.findings[kind] = Tally(1, 1)
    assert tuple(is_failure(audit, each) for each in ("error", "warning", "never")) == codes


def test_rejected_rows_fail_and_are_written_as_json(
    lossmask: Command,
    tmp_path: Path,
) -> None:
    data, account = write(tmp_path / "a", GOOD, BAD, GOOD), tmp_path / "audit.json"
    assert lossmask("audit", data, "-t", DEMO_MODEL, "--json", account).code == 1
    found = json.loads(account.read_text())
    assert (found["worst"], found["rows_in"], found["rows_rejected"]) == ("error", 3, 1)
    assert found["findings"]["duplicate_conversation"]["examples"][0]["place"] == f"{data}:3"
    assert {fact["kind"] for fact in found["template"]} >= {"every_prompt_is_prefix"}
    assert "evidence" not in found["template"][0]
    assert lossmask("audit", data, "-t", DEMO_MODEL, "--fail-on", "never").code == 0


def test_a_leak_into_evaluation_data_fails(
    lossmask: Command,
    tmp_path: Path,
) -> None:
    data, evaluated = write(tmp_path / "a", GOOD, LEAKED), write(tmp_path / "b", LEAKED)
    assert lossmask("audit", data, "-t", DEMO_MODEL).code == 0
    result = lossmask("audit", data, "-t", DEMO_MODEL, "--eval", evaluated)
    assert result.code == 1
    assert f"{data}:2: the prompt of {evaluated}:1" in result.out


def test_a_prepared_folder_is_audited_by_itself(
    lossmask: Command,
    tmp_path: Path,
) -> None:
    data, folder = write(tmp_path / "a", GOOD, LEAKED), tmp_path / "prepared"
    assert lossmask("prepare", data, "-t", DEMO_MODEL, "-o", folder).code == 0
    result = lossmask("audit", folder)
    assert (result.code, "nothing found" in result.out) == (0, True)
    assert "Reasoning and tool calls: their tokens count as content." in result.out
    refused = lossmask("audit", folder, "-t", DEMO_MODEL, "--max-length", "9")
    assert "--tokenizer, --max-length would change nothing" in refused.err
    assert "a prepared folder is audited by itself" in lossmask("audit", folder, data).err
    assert "by itself" in lossmask("audit", folder, "--eval", data).err
    mixed = lossmask("audit", data, "-t", DEMO_MODEL, "--eval", folder)
    assert "is a prepared folder, and the data is not" in mixed.err
    assert lossmask("audit", folder, "--eval", folder).code == 1


def test_options_that_are_wrong_are_refused(
    lossmask: Command,
    tmp_path: Path,
) -> None:
    data = write(tmp_path / "a", GOOD)
    assert "data files need --tokenizer" in lossmask("audit", data).err
    assert "--fail-on 'notice'" in lossmask("audit", data, "--fail-on", "notice").err


def test_what_cannot_be_told_of_a_template_is_said(lossmask: Command, tmp_path: Path) -> None:
    data = write(tmp_path / "a", {"prompt": "Q:", "completion": " A"})
    bare = tmp_path / "bare"
    tokenizer = load_tokenizer(DEMO_MODEL)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(bare))
    account = tmp_path / "audit.json"
    layout = ("--layout", "format=prompt_completion", "--json", account)
    result = lossmask("audit", data, "-t", bare, *layout)
    assert result.code == 0
    assert "What the template does: there is no Jinja chat template to diagnose" in result.out
    assert json.loads(account.read_text())["template"] is None


def test_an_audit_does_not_import_torch() -> None:
    program = "import sys, lossmask.audit_command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
