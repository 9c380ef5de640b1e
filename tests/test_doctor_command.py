"""``lossmask doctor`` takes a template or a tokenizer, draws or writes, and sets the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lossmask import Encoder, PolicyError, TemplateError
from lossmask.cli import app
from lossmask.confinement import Limits
from lossmask.doctor_command import Asked, diagnose_apart, what_is_asked
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from tests.doctor_templates import SOUND, changed


def written(tmp_path: Path, template: str) -> str:
    path = tmp_path / "template.jinja"
    path.write_text(template, encoding="utf-8")
    return str(path)


def test_a_file_is_a_template_and_all_else_a_tokenizer(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    assert what_is_asked(path, None, None) == Asked(str(DEMO_MODEL), path, True)
    assert what_is_asked(path, "org/model", None) == Asked("org/model", path, False)
    assert what_is_asked("alpaca", None, None) == Asked(str(DEMO_MODEL), "alpaca", True)
    assert what_is_asked("org/model", None, path) == Asked("org/model", path, False)
    assert what_is_asked(str(DEMO_MODEL), None, None) == Asked(str(DEMO_MODEL), None, False)


def test_two_tokenizers_or_two_templates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="taken for a tokenizer, and --tokenizer names another"):
        what_is_asked("org/model", "org/other", None)
    with pytest.raises(PolicyError, match="is a template, and --chat-template names another"):
        what_is_asked(written(tmp_path, SOUND), None, "alpaca")


def test_the_page_is_printed_and_the_json_is_written(tmp_path: Path) -> None:
    path, out = written(tmp_path, SOUND), tmp_path / "facts.json"
    result = CliRunner().invoke(app, ["doctor", path, "--json", str(out)])
    assert result.exit_code == 0
    assert "doctor: " in result.output
    facts = json.loads(out.read_text(encoding="utf-8"))
    assert (facts["target"], facts["is_stand_in"]) == (path, True)
    assert {fact["topic"] for fact in facts["facts"]}.isdisjoint({"tokens", "cost"})


def test_json_alone_is_printed_for_a_dash() -> None:
    result = CliRunner().invoke(app, ["doctor", str(DEMO_MODEL), "--json", "-"])
    facts = json.loads(result.output)
    assert facts["tokenizer"] == str(DEMO_MODEL)
    assert any(fact["kind"] == "stop_is_eos" for fact in facts["facts"])


@pytest.mark.parametrize(
    ("template", "fail_on", "code"),
    [
        (SOUND, "warning", 0),
        (changed("in m.tool_calls or []", "in []"), "warning", 1),
        (changed("in m.tool_calls or []", "in []"), "error", 0),
        ("{{ raise_exception('never') }}", "error", 1),
        ("{{ raise_exception('never') }}", "never", 0),
    ],
)
def test_the_exit_code_tells_whether_a_verdict_was_reached(
    tmp_path: Path, template: str, fail_on: str, code: int
) -> None:
    path = written(tmp_path, template)
    result = CliRunner().invoke(app, ["doctor", path, "--fail-on", fail_on])
    assert result.exit_code == code


def test_an_unknown_verdict_is_refused_with_the_nearest(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "alpaca", "--fail-on", "warnings"])
    assert isinstance(result.exception, PolicyError)
    assert "--fail-on 'warnings'" in str(result.exception)
    assert "warning" in str(result.exception)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more than 1 s",
        ),
        ("{% set x = ('a' * 2000000000)[0] %}" * 3, "GiB of memory"),
    ],
)
def test_a_template_that_hangs_or_eats_memory_is_told_and_ends_another_process(
    template: str, says: str
) -> None:
    def load() -> Encoder:
        return Encoder(load_tokenizer(DEMO_MODEL), chat_template=template)

    with pytest.raises(TemplateError, match="cannot be diagnosed") as caught:
        diagnose_apart(load, Limits(1, 0.5))
    assert says in str(caught.value)
    assert caught.value.reason == "template_limits"


def test_an_encoder_that_cannot_be_loaded_raises_its_own_error() -> None:
    def load() -> Encoder:
        return Encoder(load_tokenizer(DEMO_MODEL), chat_template="{% if %}")

    with pytest.raises(TemplateError, match="does not compile"):
        diagnose_apart(load, Limits())
