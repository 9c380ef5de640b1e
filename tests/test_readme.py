"""Everything the README shows is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lossmask.cli import app
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.explanations import FINDINGS, REASONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_runs_and_prints_what_it_says() -> None:
    [code] = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = re.search(r"# (\[.*\])\n", code)
    assert said is not None
    assert run.stdout.splitlines()[0] == said[1]


def test_ci_runs_the_readmes_test_command_and_the_main_job() -> None:
    set_up, tests, *_ = blocks("bash")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert tests.strip() in ci.splitlines()
    assert set_up.strip().rpartition(" && ")[2] in ci.splitlines()


def test_the_commands_run_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = DEMO_CONVERSATIONS.read_text(encoding="utf-8").split("\n")[:8]
    Path("chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    commands = blocks("bash")[2].strip().splitlines()
    assert [shlex.split(command)[1] for command in commands] == [
        "show",
        "audit",
        "report",
        "prepare",
        "train",
    ]
    for command in commands:
        words = shlex.split(command.replace("Qwen/Qwen3-0.6B", str(DEMO_MODEL)))[1:]
        extra = ["--max-steps", "2"] if words[0] == "train" else []
        result = CliRunner().invoke(app, [*words, *extra], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert Path("prepared", "manifest.json").exists()
    assert Path("tuned", "adapter_model.safetensors").exists()


def test_the_picture_is_what_show_draws(tmp_path: Path) -> None:
    program = ROOT / "scripts" / "make_picture.py"
    subprocess.run([sys.executable, str(program), str(tmp_path / "show.svg")], check=True)
    assert (tmp_path / "show.svg").read_bytes() == (ROOT / "docs" / "show.svg").read_bytes()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_agents_has_a_line_for_every_file() -> None:
    agents = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    files = [
        str(path.relative_to(ROOT))
        for folder in ("src/lossmask", "benchmarks", "scripts")
        for path in sorted((ROOT / folder).glob("*.py"))
    ]
    assert [file for file in files if f"`{file}`" not in agents] == []
    named = re.findall(r"`((?:src|benchmarks|scripts|tests)/[\w/]+\.py)`", agents)
    real = [file for file in named if not file.endswith("X.py")]  # X stands for any name
    assert [file for file in real if not (ROOT / file).exists()] == []


def test_every_reason_and_finding_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "parity.md").read_text("utf-8")))
    modules = (
        "conversation completions borders written turns turn_tokens tokenizing control_tokens "
        "escaping pipeline raw_rows data_loss weighting whole_text trained_messages "
        "message_weights formats weight_keys chat_rows text_rows normal_rows markers laying_out "
        "truncating dropping_turns"
    )
    sources = [
        (ROOT / "src" / "lossmask" / f"{name}.py").read_text(encoding="utf-8")
        for name in modules.split()
    ]
    used = {
        found
        for source in sources
        for found in re.findall(r'(?:reason=|Finding\(\s*|Rejection\(\s*)"(\w+)"', source)
        if found != "no_such_path"  # about files, not rows
    }
    assert {"content_dropped", "boundary_straddle", "broken_json"} <= used
    assert sorted(used - explained) == []
    known = FINDINGS.keys() | REASONS.keys()
    assert sorted(used - known) == []
    assert sorted(known - explained) == []
