"""The commands: what they write and print, their exit codes, and bad input of every kind."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from lossmask import Encoder, Policy, PolicyError, ray_engine
from lossmask.cli import COMMANDS, main
from lossmask.embedded import DEMO_MODEL
from tests.scenarios import assistant, user

TOKENIZER = str(DEMO_MODEL)
GOOD = {"messages": [user("Hi"), assistant("Hello")]}


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """Runs ``lossmask`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        self.monkeypatch.setattr(sys, "argv", ["lossmask", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        out, err = self.capsys.readouterr()
        assert isinstance(code, int)
        return Result(code, out, err)


@pytest.fixture
def lossmask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Command(monkeypatch, capsys)


def write(path: Path, *lines: Any) -> Path:
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def tokens(text: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(DEMO_MODEL)(text)["input_ids"]
    return ids


def rejected(output: Path) -> list[dict[str, Any]]:
    text = (output / "rejected.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def test_prepare_writes_shards_manifest_and_rejections(lossmask: Command, tmp_path: Path) -> None:
    data = write(tmp_path / "chats.jsonl", GOOD, "{broken", GOOD)
    output = tmp_path / "out"
    result = lossmask("prepare", data, "--tokenizer", TOKENIZER, "-o", output)
    assert result.code == 0
    for line in ("3  rows in", "2  kept", f"1  rejected: see {output}/rejected.jsonl"):
        assert line in result.out
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_kept"], manifest["rows_rejected"]) == (3, 2, 1)
    table = pq.read_table(output / "part-00000.parquet").to_pylist()
    assert [row["row"] for row in table] == [0, 2]
    [bad] = rejected(output)
    assert (bad["file"], bad["line"], bad["original"]) == (str(data), 2, "{broken")
    assert sorted(path.name for path in output.iterdir()) == [
        "manifest.json",
        "part-00000.parquet",
        "rejected.jsonl",
    ]


def test_prepare_again_says_the_same_and_overwrite_is_asked_for(
    lossmask: Command, tmp_path: Path
) -> None:
    data, output = write(tmp_path / "chats.jsonl", GOOD), tmp_path / "out"
    first = lossmask("prepare", data, "-t", TOKENIZER, "-o", output)
    assert lossmask("prepare", data, "-t", TOKENIZER, "-o", output).out == first.out
    write(data, GOOD, GOOD)
    refused = lossmask("prepare", data, "-t", TOKENIZER, "-o", output)
    assert refused.code == 1
    assert "error (output_exists): " in refused.err
    assert "replace it with --overwrite" in refused.err
    replaced = lossmask("prepare", data, "-t", TOKENIZER, "-o", output, "--overwrite")
    assert (replaced.code, "2  rows in" in replaced.out) == (0, True)


def test_prepare_refuses_an_engine_that_it_does_not_know(lossmask: Command, tmp_path: Path) -> None:
    data, output = write(tmp_path / "chats.jsonl", GOOD), tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output, "--engine", "rya")
    assert result.code == 1
    assert "error (bad_policy): engine is 'rya'; did you mean 'ray'?" in result.err
    assert not output.exists()


def test_prepare_passes_the_address_of_the_cluster(
    lossmask: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, int]] = []

    def connect(address: str | None, workers: int) -> NoReturn:
        asked.append((address, workers))
        raise PolicyError("no cluster", reason="no_ray")

    monkeypatch.setattr(ray_engine, "connected_to_ray", connect)
    data, output = write(tmp_path / "chats.jsonl", GOOD), tmp_path / "out"
    command = ("prepare", data, "-t", TOKENIZER, "-o", output, "--engine", "ray")
    result = lossmask(*command, "--ray-address", "10.0.0.1:6379")
    assert (result.code, "error (no_ray): no cluster" in result.err) == (1, True)
    lossmask(*command, "--workers", "3")
    assert asked == [("10.0.0.1:6379", 0), (None, 3)]


def test_prepare_applies_the_policy_options(lossmask: Command, tmp_path: Path) -> None:
    data = write(tmp_path / "a", {"messages": GOOD["messages"] * 2})
    output = tmp_path / "out"
    result = lossmask(
        "prepare", data, "-t", TOKENIZER, "-o", output, "--train-on", "last_assistant"
    )
    assert result.code == 0
    assert json.loads((output / "manifest.json").read_text())["policy"] == {
        **json.loads(json.dumps(Policy().to_mapping())),
        "train_on": "last_assistant",
    }
    [row] = pq.read_table(output / "part-00000.parquet").to_pylist()
    assert [label for label in row["labels"] if label != -100] == tokens("Hello<|im_end|>")
    assert row["input_ids"].count(tokens("Hello")[0]) == 2


def test_prepare_passes_template_variables_and_stops(lossmask: Command, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{{ mood }}{% for m in messages %}{{ m.role }}:{{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    data = write(tmp_path / "a", GOOD)
    options: list[str | Path] = [
        "-t",
        TOKENIZER,
        "--chat-template",
        template,
        "--template-var",
        'mood="calm "',
    ]
    result = lossmask("show", data, *options, "--stop", "<|endoftext|>")
    assert result.code == 0
    assert "calm user:Hi<|endoftext|>assistant:⟦Hello<|endoftext|>■⟧" in result.out


def test_show_draws_the_row_asked_for(lossmask: Command, tmp_path: Path) -> None:
    data = write(tmp_path / "a", GOOD, {"messages": [user("Q"), assistant("other")]})
    result = lossmask("show", data, "-t", TOKENIZER, "--row", "1")
    assert result.code == 0
    assert " 1 assistant │ ⟦other<|im_end|>■⟧⏎\n" in result.out
    assert "Hello" not in result.out
    assert " 1 assistant │ ⟦Hello<|im_end|>■⟧⏎\n" in lossmask("show", data, "-t", TOKENIZER).out


def test_show_draws_every_example_of_a_row(lossmask: Command, tmp_path: Path) -> None:
    template = tmp_path / "last_thoughts.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last %}"
        "{{ m.reasoning_content }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = [
        user("a"),
        assistant("b", reasoning_content="r"),
        user("c"),
        assistant("d", reasoning_content="s"),
    ]
    data = write(tmp_path / "a", {"messages": turns})
    result = lossmask("show", data, "-t", TOKENIZER, "--chat-template", template)
    assert result.code == 0
    assert re.findall(r"example \d of \d", result.out, re.M) == [
        "example 1 of 2",
        "example 2 of 2",
    ]
    assert "⟦sd<|im_end|>■⟧" in result.out
    assert "⟦rb<|im_end|>■⟧" in result.out


def test_show_names_the_reason_of_a_row_that_cannot_be_encoded(
    lossmask: Command, tmp_path: Path
) -> None:
    data = write(tmp_path / "a", GOOD, {"messages": [user("Hi"), {"content": "x"}]})
    result = lossmask("show", data, "-t", TOKENIZER, "-n", "1")
    assert result.code == 1
    assert f"{data}:2, message 1: missing_key" in result.out
    assert "the key 'role' is missing; keys found: content" in result.out


def test_show_of_a_row_that_is_not_there_says_how_many_there_are(
    lossmask: Command, tmp_path: Path
) -> None:
    result = lossmask("show", write(tmp_path / "a", GOOD), "-t", TOKENIZER, "-n", "5")
    assert result.code == 1
    assert "has 1 rows, numbered from 0: there is no row 5" in result.err


BAD_ROWS: list[tuple[Any, str, int | None, str]] = [
    ('{"messages": [', "broken_json", None, "not JSON: Expecting value"),
    ("[1, 2]", "broken_json", None, "expected an object with the key 'messages', got list"),
    ({"txt": "x", "id": 1}, "unknown_format", None, "no format reads the keys txt, id; expected"),
    ({"messages": "Hi"}, "bad_conversation", None, "'messages' is a string but not JSON"),
    ({"messages": []}, "empty_conversation", None, "'messages' is empty"),
    (
        {"messages": [user("Hi"), {"content": "x"}]},
        "missing_key",
        1,
        "the key 'role' is missing; keys found: content",
    ),
    (
        {"messages": [user("Hi"), {"role": "assistant"}]},
        "missing_key",
        1,
        "the key 'content' is missing",
    ),
    (
        {"messages": [{"role": "narrator", "content": "x"}, assistant("a")]},
        "unknown_role",
        0,
        "narrator",
    ),
    ({"messages": [user("Hi")]}, "no_assistant", None, "no message has the role 'assistant'"),
    (
        {"messages": [user("Hi"), assistant("a", train=False)]},
        "nothing_to_train",
        None,
        "no message is to be trained",
    ),
    (
        {"messages": [user("Hi"), assistant([{"type": "text", "text": "x"}])]},
        "template_error",
        1,
        "the chat template raised TypeError: ",
    ),
    (
        {"messages": [user("Hi"), assistant("x<|im_end|>y")]},
        "control_token_in_content",
        1,
        "'content' contains the control token '<|im_end|>' at character 1",
    ),
]


def test_every_bad_row_is_rejected_with_file_line_and_reason(
    lossmask: Command, tmp_path: Path
) -> None:
    lines = [line for row, *_ in BAD_ROWS for line in (GOOD, row)]
    data, output = write(tmp_path / "chats.jsonl", *lines), tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output)
    assert result.code == 0
    found = rejected(output)
    assert len(found) == len(BAD_ROWS)
    for number, (record, (row, reason, index, detail)) in enumerate(
        zip(found, BAD_ROWS, strict=True)
    ):
        assert (record["file"], record["line"]) == (str(data), 2 * number + 2)
        assert record["row"] == 2 * number + 1
        assert (record["reason"], record["message_index"]) == (reason, index)
        assert detail in record["detail"]
        broken = reason == "broken_json"
        assert record["original"] == (row if broken else json.loads(json.dumps(row)))
    table = pq.read_table(output / "part-00000.parquet").to_pylist()
    assert [row["row"] for row in table] == list(range(0, 2 * len(BAD_ROWS), 2))


def test_prepare_fails_if_no_row_was_kept(lossmask: Command, tmp_path: Path) -> None:
    data, output = write(tmp_path / "a", {"txt": "x"}), tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output)
    assert result.code == 1
    assert "0  kept" in result.out
    assert len(rejected(output)) == 1


def test_a_template_that_raises_rejects_the_row_and_names_the_message(
    lossmask: Command, tmp_path: Path
) -> None:
    template = tmp_path / "raises.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad words') }}"
        "{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    data = write(tmp_path / "a", GOOD, {"messages": [user("Hi"), assistant("bad")]})
    output = tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output, "--chat-template", template)
    assert result.code == 0
    [record] = rejected(output)
    assert (record["line"], record["reason"], record["message_index"]) == (2, "template_error", 1)
    assert record["detail"] == "the chat template raised TemplateError: no bad words"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("half an emoji \ud83d"), assistant("a")]},
        {"messages": [user("half an emoji \ud83d")]},
        {"messages": [user("Hi"), assistant("a", weight=1e300)]},
        {"messages": [user("Hi"), assistant("a", weight=10**400)]},
        {**GOOD, "tools": "[" * 100_000},
    ],
    ids=["lone surrogate", "lone surrogate, rejected", "weight 1e300", "weight 10**400", "tools"],
)
def test_a_hostile_row_is_rejected_and_the_others_are_kept(
    lossmask: Command, tmp_path: Path, row: Any
) -> None:
    data, output = write(tmp_path / "a", GOOD, row, GOOD), tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output)
    assert result.code == 0
    [record] = rejected(output)
    assert (record["line"], record["original"]) == (2, row)


HUNGRY = "{% for m in messages %}{{ m.content }}{{ 'a' * 10**10 * messages|length }}{% endfor %}"


def test_show_of_a_row_at_which_the_template_eats_memory_says_so(
    lossmask: Command, tmp_path: Path
) -> None:
    template = tmp_path / "hungry.jinja"
    template.write_text(HUNGRY)
    data = write(tmp_path / "a", GOOD)
    options: list[str | Path] = ["-t", TOKENIZER, "--chat-template", template]
    result = lossmask("show", data, *options, "--max-memory", "0.5")
    assert result.code == 1
    assert f"{data}:1: template_limits" in result.out
    assert (
        "it takes more than 0.5 GiB of memory: the chat template blows it up, or it is very "
        in (" ".join(result.out.split()))
    )
    assert result.err == ""


def test_a_template_that_always_eats_memory_is_one_line(lossmask: Command, tmp_path: Path) -> None:
    template = tmp_path / "hungry.jinja"
    template.write_text(HUNGRY)
    data = write(tmp_path / "rows.jsonl", GOOD, "{broken", GOOD, GOOD)
    changes: dict[str, str | Path] = {"data": data, "chat_template": template, "max_memory": "0.5"}
    result = lossmask(*arguments(tmp_path, **changes))
    words = " ".join(result.err.split())
    assert result.code == 1
    assert "error (template_limits): 3 rows reach the limits of what one row may cost" in words
    assert f"Of {data}:4: it takes more than 0.5 GiB of memory" in words
    assert "Traceback" not in words
    assert not (tmp_path / "out").exists()


LONG = {"messages": [user("Hi"), assistant("Hello"), user("More"), assistant("x " * 30)]}


def test_prepare_counts_what_truncation_loses(lossmask: Command, tmp_path: Path) -> None:
    data, output = write(tmp_path / "a", LONG, GOOD), tmp_path / "out"
    options = ("--fit", "max_length=40", "--truncation", "keep_start")
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output, *options)
    assert result.code == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["fit"] == {
        "max_length": 40,
        "truncation": "keep_start",
        "cut_reply": "mask",
    }
    [long, good] = pq.read_table(output / "part-00000.parquet").to_pylist()
    assert len(long["input_ids"]) == 40
    assert [label for label in long["labels"] if label != -100] == tokens("Hello<|im_end|>")
    whole = Encoder.from_pretrained(DEMO_MODEL).encode(LONG["messages"])[0]
    assert manifest["lost"] == {
        "tokens": len(whole) - 40,
        "supervised_tokens": whole.spans[1].token_end - whole.spans[1].token_start,
        "turns": 1,
        "examples": 0,
        "cut_replies": 1,
    }
    assert manifest["tokens"] == 40 + len(good["input_ids"])
    assert manifest["findings"] == {"end_cut": 1, "reply_cut": 1}
    lost = manifest["lost"]
    share = f"{lost['tokens'] / (lost['tokens'] + manifest['tokens']):.1%}"
    assert (
        f"{lost['tokens']}  tokens lost to --max-length ({share}), {lost['supervised_tokens']} of "
        "them supervised; turns lost: 1, whole examples: 0, replies cut: 1"
    ) in result.out


def test_a_row_that_is_too_long_is_rejected_and_its_tokens_are_counted(
    lossmask: Command, tmp_path: Path
) -> None:
    data, output = write(tmp_path / "a", LONG, GOOD), tmp_path / "out"
    result = lossmask("prepare", data, "-t", TOKENIZER, "-o", output, "--max-length", "40")
    assert [(row["row"], row["reason"]) for row in rejected(output)] == [(0, "too_long")]
    whole = Encoder.from_pretrained(DEMO_MODEL).encode(LONG["messages"])[0]
    lost = json.loads((output / "manifest.json").read_text())["lost"]
    assert (lost["tokens"], lost["examples"], lost["turns"]) == (len(whole), 1, 2)
    assert "whole examples: 1" in result.out


def test_show_draws_what_is_left_under_the_numbers_of_the_row(
    lossmask: Command, tmp_path: Path
) -> None:
    data = write(tmp_path / "a", {"messages": [*GOOD["messages"], user("More"), assistant("Yes")]})
    options = ("--max-length", "20", "--truncation", "drop_turns")
    out = lossmask("show", data, "-t", TOKENIZER, *options).out
    assert " 3 assistant │ ⟦Yes<|im_end|>■⟧⏎" in out
    assert "Hello" not in out
    assert "turns_dropped: the oldest exchanges are dropped, 1 of 2 (messages 0 to 1, " in out


def test_audit_says_what_truncation_would_lose(lossmask: Command, tmp_path: Path) -> None:
    data, account = write(tmp_path / "a", LONG, GOOD), tmp_path / "audit.json"
    options = ("--max-length", "40", "--truncation", "keep_start", "--cut-reply", "train")
    result = lossmask("audit", data, "-t", TOKENIZER, "--json", account, *options)
    assert result.code == 0
    found = json.loads(account.read_text())
    whole = Encoder.from_pretrained(DEMO_MODEL).encode(LONG["messages"])[0]
    assert found["lost"] == {
        "tokens": len(whole) - 40,
        "supervised_tokens": whole.spans[1].token_end - 40,
        "turns": 0,
        "examples": 0,
        "cut_replies": 1,
    }
    assert "turns lost: 0, whole examples: 0, replies cut: 1" in result.out
    assert "reply_cut" in result.out


@pytest.mark.parametrize("command", ["prepare", "show"])
def test_help_names_the_limits_and_their_defaults(lossmask: Command, command: str) -> None:
    text = lossmask(command, "--help").out
    assert re.search(r"--max-seconds .*\[default: 60\]", text)
    assert re.search(r"--max-memory .*\[default: 4\]", text)


def arguments(tmp_path: Path, **changes: str | Path) -> list[str | Path]:
    """Return a ``prepare`` command line that works, with changes."""
    values: dict[str, str | Path] = {
        "data": write(tmp_path / "good.jsonl", GOOD),
        "tokenizer": TOKENIZER,
        "output": tmp_path / "out",
        **changes,
    }
    data = values.pop("data")
    options = [(f"--{name.replace('_', '-')}", value) for name, value in values.items()]
    return ["prepare", data, *(part for option in options for part in option)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "/nowhere/chats.jsonl"}, "(no_such_path): no such file: /nowhere/chats.jsonl"),
        (
            {"tokenizer": "/nowhere/model"},
            "(no_such_path): no such tokenizer folder: /nowhere/model",
        ),
        (
            {"train_on": "all_asistant"},
            "(bad_policy): policy train_on is 'all_asistant'; did you mean 'all_assistant'? "
            "allowed: all_assistant, last_assistant",
        ),
        (
            {"history": "keep"},
            "(bad_policy): policy history is 'keep'; allowed: expand, last, as_rendered, error",
        ),
        ({"max_length": "0"}, "(bad_policy): max_length is 0; give a whole number of tokens, at "),
        (
            {"truncation": "drop_turn"},
            "(bad_policy): truncation is 'drop_turn'; did you mean 'drop_turns'? allowed: error",
        ),
        ({"control_tokens": "x"}, "(bad_policy): policy control_tokens is 'x'; "),
        ({"template_var": "x"}, "--template-var 'x': expected NAME=JSON"),
        ({"template_var": "x=y"}, "--template-var 'x=y': the value is not JSON (put strings in "),
        ({"stop": "<nope>"}, "(unknown_stop): the stop token '<nope>' is not a token of this "),
        (
            {"chat_template": "/nowhere/t.jinja"},
            "(no_such_path): cannot read the chat template '/nowhere/t.jinja': ",
        ),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    lossmask: Command, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    result = lossmask(*arguments(tmp_path, **changes))
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_folder_and_an_empty_file_are_refused(lossmask: Command, tmp_path: Path) -> None:
    folder = lossmask(*arguments(tmp_path, data=tmp_path))
    assert (folder.code, "is a folder; name the files in it" in folder.err) == (1, True)
    empty = lossmask(*arguments(tmp_path, data=write(tmp_path / "empty.jsonl", "", " ")))
    assert (empty.code, "(no_rows): no rows in " in empty.err) == (1, True)


def test_a_tokenizer_without_a_chat_template_says_what_to_pass(
    lossmask: Command, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(DEMO_MODEL, bare, ignore=shutil.ignore_patterns("*.jinja", "*.safetensors"))
    result = lossmask(*arguments(tmp_path, tokenizer=bare))
    assert result.code == 1
    assert f"error (no_chat_template): the tokenizer '{bare}' has no chat template: " in result.err
    assert "--chat-template FILE" in result.err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_named(lossmask: Command, tmp_path: Path) -> None:
    empty = tmp_path / "model"
    empty.mkdir()
    result = lossmask(*arguments(tmp_path, tokenizer=empty))
    assert result.code == 1
    assert f"error (tokenizer_error): cannot load a tokenizer from '{empty}'" in result.err


def test_an_output_that_is_a_file_is_refused(lossmask: Command, tmp_path: Path) -> None:
    output = write(tmp_path / "taken", "mine")
    result = lossmask(*arguments(tmp_path, output=output))
    assert (result.code, "(output_exists)" in result.err) == (1, True)
    assert output.read_text() == "mine\n"


def test_a_file_is_never_overwritten(lossmask: Command, tmp_path: Path) -> None:
    output = write(tmp_path / "taken", "mine")
    result = lossmask(*arguments(tmp_path, output=output), "--overwrite")
    assert (result.code, "(output_exists)" in result.err) == (1, True)
    assert output.read_text() == "mine\n"


def test_overwriting_spares_files_that_lossmask_did_not_write(
    lossmask: Command, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    own = write(tmp_path / "out" / "thesis.txt", "mine")
    result = lossmask(*arguments(tmp_path), "--overwrite")
    assert (result.code, "holds files that lossmask did not write (thesis.txt)" in result.err) == (
        1,
        True,
    )
    assert own.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("prepare", "lossmask prepare chats.jsonl --tokenizer Qwen/Qwen3-0.6B -o prepared"),
        ("show", "lossmask show chats.jsonl --tokenizer Qwen/Qwen3-0.6B --rows 3,7-9"),
        ("train", "lossmask train prepared --model Qwen/Qwen3-0.6B -o tuned --lora"),
    ],
)
def test_help_shows_an_example(lossmask: Command, command: str, example: str) -> None:
    result = lossmask(command, "--help")
    assert result.code == 0
    assert f"Example: {example}" in result.out


def test_help_lists_the_commands(lossmask: Command) -> None:
    result = lossmask("--help")
    assert result.code == 0
    for command in ("prepare", "show", "train", "demo"):
        assert re.search(rf"^\W*{command}\s+\w", result.out, re.M)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["prepare"], "Missing argument"),
        (["prepare", "x", "-o", "y"], "Missing option '--tokenizer'"),
        (["show", "x"], "Invalid value for --tokenizer: is missing: a folder or hub id"),
        (["show", "x", "-t", "y", "--row", "-1"], "Invalid value for '--row'"),
        (["prepare", "--no-such-option"], "No such option"),
        (["prepar"], "No such command 'prepar'"),
    ],
)
def test_usage_errors_end_with_code_two(lossmask: Command, given: list[str], message: str) -> None:
    result = lossmask(*given)
    assert result.code == 2
    assert message in result.err


def test_each_command_is_listed_with_the_first_line_of_its_docstring(lossmask: Command) -> None:
    listed = lossmask("--help").out
    for command in COMMANDS:
        told = (command.function().__doc__ or "").split("\n")[0]
        assert told == command.summary
        assert re.search(rf"│ {command.name} +{re.escape(told)}", listed), command.name
        alone = lossmask(command.name, "--help").out
        assert told in alone
        assert f"Example: lossmask {command.example}" in alone


def test_the_version_is_shown(lossmask: Command) -> None:
    assert lossmask("--version") == Result(0, f"lossmask {version('lossmask')}\n", "")


def test_an_unknown_command_is_an_error_that_names_a_near_one(lossmask: Command) -> None:
    result = lossmask("prepar")
    assert result.code == 2
    assert "No such command 'prepar'. Did you mean 'prepare', 'report'?" in result.err
