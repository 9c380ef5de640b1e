"""``lossmask diff`` as typed: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest

from lossmask import Policy
from lossmask.cli import main
from lossmask.embedded import DEMO_MODEL
from lossmask.foreign_masks import name_of
from lossmask.preparing import EncoderSource, prepare
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import assistant, user

TOKENIZER = ("-t", str(DEMO_MODEL))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        [user("Hi"), assistant("Yes")],
        [user("Hi"), assistant("Yes"), user("So"), assistant("No")],
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lossmask", "diff", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as info:
            main()
    output = capsys.readouterr()
    lines = [line.rstrip() for line in output.out.splitlines()]
    return int(info.value.code or 0), lines, " ".join(output.err.split())


def test_policies_are_compared_and_what_differs_is_drawn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, mapping = tmp_path / "diff.html", tmp_path / "diff.json"
    code, lines, _ = run(
        capsys, data, *TOKENIZER, "--against-policy", "stop=last", "--html", page, "--json", mapping
    )
    assert code == 1
    assert "B  as A, but policy stop=last" in lines
    assert lines[-13:] == [
        "in the loss of A only",
        "               ⋮ 2 lines alike",
        "               │ <|im_start|>assistant⏎",
        " 1 assistant A │ ⟦Yes╌<|im_end|>⟧⏎",
        "             B │ ⟦Yes⟧<|im_end|>╌⏎",
        "               │      ----------",
        "               │ <|im_start|>user⏎",
        "               ⋮ 3 lines alike",
        " A   B      what        text",
        " 11  11  -  stop token  <|im_end|>",
        "",
        "- in the loss of A only  + of B only  ± of each some  ~ other weight",
        "≈ the same text in other tokens, ¦ where one begins  ! other text  ╌ nothing",
    ]
    written = json.loads(mapping.read_text(encoding="utf-8"))
    assert written["rows"] == 2
    assert written["only_in_loss_of_a"] == {"stop token": {"tokens": 1, "rows": 1}}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_nothing_that_differs_is_exit_code_0(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = run(capsys, data, *TOKENIZER, "--against-policy", "stop=train")
    assert code == 0
    assert [line.strip() for line in lines[-5:-2]] == [
        "2  rows",
        "2  the same on both sides",
        "0  differ",
    ]


def test_the_policy_of_b_is_that_of_a_with_what_is_named_changed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("weights: {prompt: 0.5}\n")
    code, lines, _ = run(
        capsys,
        data,
        *TOKENIZER,
        *("-p", "weights.content=2", "--against-policy", "weights.stop=3"),
        *("--row", 0),
    )
    assert code == 1
    assert [line.split() for line in lines if "→" in line] == [
        ["11", "11", "~", "stop", "token", "1", "→", "3", "<|im_end|>"]
    ]
    assert not any("answer" in line for line in lines)  # its content weighs 2 on both sides
    code, lines, _ = run(capsys, data, *TOKENIZER, "--against-policy", file, "--row", 0)
    assert any("user message" in line and "0 → 0.5" in line for line in lines)


def test_templates_and_variables_are_compared(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "mood.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ mood }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ mood }}\n{% endif %}"
    )
    code, lines, _ = run(capsys, data, *TOKENIZER, "--against-template", template, "--limit", 0)
    assert code == 0
    given = ("--chat-template", template, "--against-template-var", 'mood="!"')
    code, lines, _ = run(capsys, data, *TOKENIZER, *given, "--limit", 0)
    assert code == 1
    assert lines[-1] == "• the text differs in all 2 rows"


def test_another_tool_is_compared_by_what_it_returns(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = run(capsys, data, *TOKENIZER, "--against", "transformers", "--limit", 0)
    assert code == 1
    assert any(line.startswith("B  transformers 5.") for line in lines)
    assert any("trains nothing: not one of" in line for line in lines)


def test_prepared_folders_are_compared_without_a_tokenizer(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stops: tuple[tuple[str, Literal["train", "last"]], ...] = (("a", "train"), ("b", "last"))
    for name, policy in stops:
        source = EncoderSource(str(DEMO_MODEL), Policy(stop=policy))
        prepare([data], source, tmp_path / name)
    code, lines, _ = run(capsys, tmp_path / "a", tmp_path / "b")
    assert code == 1
    said = "• B does not train 1 stop token, in 1 row: those turns do not teach when to stop"
    assert said in lines
    code, _, error = run(capsys, tmp_path / "a", tmp_path / "b", "--against", "trl")
    assert code == 2
    assert "two prepared folders are what they are" in error
    code, _, error = run(capsys, tmp_path / "a", data)
    assert (code, "is compared with one other" in error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no --tokenizer to encode the data with"),
        (TOKENIZER, "nothing to compare with: give --against trl"),
        ((*TOKENIZER, "--against", "tlr"), "did you mean 'trl'"),
        (
            (*TOKENIZER, "--against", "trl", "--against-policy", "stop=last"),
            "B cannot have another policy as well",
        ),
        ((*TOKENIZER, "--against-policy", "stopp=last"), "policy has no key 'stopp'"),
        ((*TOKENIZER, "--against-policy", "x[", "--row", "0"), "cannot read the policy"),
    ],
)
def test_trouble_is_exit_code_2_and_one_line(
    arguments: tuple[str, ...], said: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, error = run(capsys, data, *arguments)
    assert (code, lines) == (2, [])
    assert error.startswith("error (")
    assert said in error


def test_tags_that_leave_out_the_stop_token_are_told_of_trl(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "tags.jinja"
    whole = FIXTURE_TEMPLATES["generation tags and end of text after the last turn"]
    template.write_text(
        whole.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    )
    code, lines, _ = run(
        capsys, data, *TOKENIZER, "--chat-template", template, "--against", "trl", "--limit", 0
    )
    assert code == 1
    assert [line for line in lines if line.startswith("• ")] == [
        f"• {name_of('trl')} does not train 3 stop tokens, in 2 rows: those turns do not teach"
    ]
