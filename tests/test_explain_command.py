"""The command line of ``explain``: exact lines, JSON, errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossmask.embedded import DEMO_MODEL
from tests.scenarios import assistant, user
from tests.test_cli import Command, write
from tests.test_cli import lossmask as lossmask

TOKENIZER = str(DEMO_MODEL)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(
        tmp_path / "chats.jsonl",
        {"messages": [user("Hi"), assistant("Hello Hello")]},
        {"messages": [user("Hi")]},
    )


def test_a_text_is_explained_token_by_token(
    lossmask: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = lossmask("explain", data, "-t", TOKENIZER, "--text", "Hi")
    assert result.code == 0
    lines = [line.rstrip() for line in result.out.split("\n")]
    assert lines[0] == f"{data}:1, token 3 ".ljust(100, "─")
    assert lines[1:8] == [
        "      token  H  id 42, bytes 48",
        "         in  <|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>…",
        " written by  message 0 (user), content, from character 0",
        "         on  line 2 of the chat template: {{- '<|im_start|>' + message['role'] + '\\n' +",
        "             message['content'] + '<|im_end|>\\n' }}",
        "in the loss  not trained",
        "    because  message 0 is of the role user, which train_on=all_assistant does not train",
    ]
    assert lines[8] == "       rule  train_on, part prompt"
    assert [line for line in lines if ", token " in line][1].startswith(f"{data}:1, token 4 ─")


def test_tokens_are_explained_as_json(lossmask: Command, data: Path) -> None:
    result = lossmask("explain", data, "-t", TOKENIZER, "-k", "0", "-k", "-1", "--json")
    first, last = json.loads(result.out)
    assert (first["token"], first["rule"]) == (0, "prompt")
    assert (last["text"], last["rule"], last["weight"]) == ("\n", "behind_the_end", 0.0)
    assert last["template_source"].startswith("    {{- '<|im_start|>'")


def test_more_tokens_than_the_limit_are_counted(lossmask: Command, data: Path) -> None:
    result = lossmask("explain", data, "-t", TOKENIZER, "--text", "Hello", "--limit", "1")
    assert result.out.count("in the loss") == 1
    assert result.out.rstrip().endswith("2 more of that text: --limit 3")


def test_a_row_that_is_rejected_says_why(lossmask: Command, data: Path) -> None:
    result = lossmask("explain", data, "-t", TOKENIZER, "--row", "1", "--token", "0")
    assert result.code == 1
    assert f"{data}:2: no_assistant" in result.out


def test_a_text_that_is_not_there_is_one_line(lossmask: Command, data: Path) -> None:
    result = lossmask("explain", data, "-t", TOKENIZER, "--text", "\x1b[31m")
    assert result.code == 1
    assert "error (text_not_found): '\\x1b[31m' does not occur in the row's 1 example" in result.err


@pytest.mark.parametrize("options", [[], ["--token", "1", "--text", "x"]])
def test_either_tokens_or_a_text_are_asked_for(
    options: list[str], lossmask: Command, data: Path
) -> None:
    result = lossmask("explain", data, "-t", TOKENIZER, *options)
    assert result.code == 1
    assert "give either --token NUMBER, or --text with what to look for" in result.err
