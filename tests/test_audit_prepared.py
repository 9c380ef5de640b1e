"""A prepared folder is audited as far as ids, weights and the manifest tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossmask import Policy, PreparedDataError
from lossmask.audit_data import audit
from lossmask.audit_prepared import NOT_TOLD, audit_prepared
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.prepared_manifest import is_prepared
from lossmask.preparing import EncoderSource, prepare
from tests.scenarios import assistant, system, user

LONG = "Which of the two ships sailed around the cape of good hope first, and when was that?"
ROWS = [
    [user("Q0?"), assistant("A1.")],
    [system(" S0 "), user(LONG), assistant("A.")],
    [user("Q0 <|im_end|>"), assistant("A1.")],
    [user("Q0?"), assistant("A1."), user("Q2?"), assistant("A3.")],
]
REPEATED = [
    ROWS[0],
    [user("Q0?"), assistant("No.")],
    [system(" S0 "), user(f"{LONG} Say."), *ROWS[0][1:]],
]


def prepared(folder: Path, rows: list[Any], name: str = "prepared", **changes: Any) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return prepare([data], EncoderSource(str(DEMO_MODEL), **changes), folder / name).folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("once"), ROWS)


def test_what_the_columns_tell_is_what_the_audit_of_the_data_says(folder: Path) -> None:
    found = audit_prepared(folder)
    source = EncoderSource(str(DEMO_MODEL))
    expected = audit([folder.with_suffix(".jsonl")], source, limits=Limits())
    ours, theirs = found.to_mapping(), expected.to_mapping()
    told = ("rows_in", "rows_kept", "rows_rejected", "examples", "tokens", "supervised_tokens")
    for name in (*told, "turns", "turns_without_stop", "stop_rate", "repeated_tokens", "lost"):
        assert ours[name] == theirs[name], name
    for name in ("length", "supervised_tokens", "supervised_share", "turns", "parts"):
        assert ours["statistics"][name] == theirs["statistics"][name], name
    assert ours["rejections"] == theirs["rejections"]
    assert (found.findings, found.worst) == ({}, "error")
    assert found.not_told == NOT_TOLD


def test_findings_are_known_by_number_only(tmp_path: Path) -> None:
    template = (
        (DEMO_MODEL / "chat_template.jinja")
        .read_text()
        .replace("message['content']", "message['content'] | trim")
    )
    file = tmp_path / "trim.jinja"
    file.write_text(template)
    found = audit_prepared(prepared(tmp_path, ROWS[:2], chat_template=str(file)))
    [(kind, tally)] = found.findings.items()
    assert (kind, tally.count, tally.rows, tally.instances) == ("text_trimmed", 1, None, [])


def test_repeats_and_leaks_are_found_among_the_ids(folder: Path, tmp_path: Path) -> None:
    whole = prepared(tmp_path, [*ROWS[:2], *REPEATED])
    found = audit_prepared(whole, eval_folder=folder)
    shard = f"{whole}/part-00000.parquet"
    other = f"{folder}/part-00000.parquet"
    assert {kind: [str(e) for e in t.instances] for kind, t in found.findings.items()} == {
        "duplicate_conversation": [f"{shard}#3: the same as {shard}#1"],
        "duplicate_prompt": [f"{shard}#4: another answer to the prompt of {shard}#1"],
        "near_duplicate_prompt": [f"{shard}#5: 88% alike: the prompt of {shard}#2"],
        "eval_leak": [f"{shard}#{k}: the prompt of {other}#{min(k, 2)}" for k in (1, 2)]
        + [f"{shard}#3: the prompt of {other}#1"],
        "near_eval_leak": [f"{shard}#5: 88% alike: the prompt of {other}#2"],
    }


def test_stops_that_no_example_trains_are_an_error(tmp_path: Path) -> None:
    found = audit_prepared(prepared(tmp_path, ROWS[:1], policy=Policy(stop="never")))
    assert found.findings.keys() == {"stop_never_trained"}
    assert found.stop_rate == 0


def test_folders_of_different_tokenizers_are_not_compared(folder: Path, tmp_path: Path) -> None:
    other = prepared(tmp_path, ROWS[:1])
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["tokenizer"]["vocab_size"] += 1
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PreparedDataError, match="made with another tokenizer: its vocab_size is"):
        audit_prepared(folder, eval_folder=other)


@pytest.mark.parametrize("key", ["findings", "rejections"])
def test_a_manifest_with_kinds_that_are_not_known_is_refused(tmp_path: Path, key: str) -> None:
    folder = prepared(tmp_path, ROWS[:1])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[key] = {"surprise": 3}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PreparedDataError, match=f"{key} holds 'surprise'"):
        audit_prepared(folder)


def test_rejected_rows_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    folder = prepared(tmp_path, ROWS)
    (folder / "rejected.jsonl").unlink()
    with pytest.raises(PreparedDataError, match=r"rejected.jsonl cannot be read"):
        audit_prepared(folder)


def test_a_folder_with_a_manifest_is_a_prepared_one(folder: Path, tmp_path: Path) -> None:
    assert is_prepared(folder)
    assert not is_prepared(tmp_path)
    assert not is_prepared(folder / "manifest.json")
