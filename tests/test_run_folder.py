"""A run claims an empty folder, and resumes from the last whole checkpoint of the same run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoTokenizer, TrainingArguments

from lossmask.errors import InputError, PolicyError
from lossmask.prepared import load_prepared
from lossmask.run_folder import RECORD_NAME, checkpoint_step, open_run, save_for_inference
from tests.tiny_models import tiny_examples, tiny_model, write_prepared, write_tokenizer


def claim(folder: Path, **changes: Any) -> Path | None:
    settings: dict[str, Any] = {
        "examples": 20,
        "packing": None,
        "manifest": {"tokens": 100},
        "lora": None,
        "resume": False,
        "learning_rate": 1e-3,
        **changes,
    }
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=settings.pop("learning_rate"),
        use_cpu=True,
        report_to="none",
    )
    return open_run(arguments, settings.pop("model", nn.Linear(3, 2)), **settings)


def write_checkpoint(folder: Path, step: int, text: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    state = json.dumps({"global_step": step}) if text is None else text
    (path / "trainer_state.json").write_text(state)
    return path


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_run_starts_from_the_beginning_and_leaves_a_record(
    tmp_path: Path, resume: bool
) -> None:
    assert claim(tmp_path / "a" / "b", resume=resume) is None
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [RECORD_NAME]
    record = json.loads((tmp_path / "a" / "b" / RECORD_NAME).read_text())
    assert record["learning_rate"] == 1e-3
    assert record["examples"] == 20
    assert record["parameters"] == 8
    assert record["dtype"] == "torch.float32"
    assert len(record["manifest_sha256"]) == 64


def test_an_empty_folder_is_not_in_use(tmp_path: Path) -> None:
    assert claim(tmp_path) is None
    assert (tmp_path / RECORD_NAME).is_file()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path.name} is not an empty folder") as caught:
        claim(tmp_path)
    assert caught.value.reason == "output_in_use"
    with pytest.raises(InputError, match="is not the output of `lossmask train`"):
        claim(tmp_path, resume=True)
    with pytest.raises(InputError, match=r"thesis\.txt is not an empty folder"):
        claim(thesis)
    with pytest.raises(InputError, match="is not the output of `lossmask train`"):
        claim(thesis, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert thesis.read_text() == "mine"


def test_a_run_that_is_there_is_not_started_again(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    with pytest.raises(InputError, match="or resume the run in it"):
        claim(tmp_path / "out")


def test_a_run_without_checkpoint_is_resumed_from_its_beginning(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    assert claim(tmp_path / "out", resume=True) is None


def test_the_newest_checkpoint_is_resumed(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    for step in (2, 10, 9):  # as numbers, not as words
        write_checkpoint(tmp_path / "out", step)
    (tmp_path / "out" / "checkpoint-final").mkdir()
    found = claim(tmp_path / "out", resume=True)
    assert found == tmp_path / "out" / "checkpoint-10"
    assert checkpoint_step(found) == 10
    assert checkpoint_step(None) == 0


@pytest.mark.parametrize("text", ["", '{"global_step"', None])
def test_a_half_written_checkpoint_is_passed_over(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    claim(tmp_path / "out")
    whole = write_checkpoint(tmp_path / "out", 4)
    half = write_checkpoint(tmp_path / "out", 6, text)
    if text is None:
        (half / "trainer_state.json").unlink()
    with caplog.at_level(logging.WARNING, logger="lossmask"):
        assert claim(tmp_path / "out", resume=True) == whole
    assert "checkpoint-6 was not written to its end" in caplog.text


def test_a_checkpoint_under_a_wrong_name_is_passed_over(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    write_checkpoint(tmp_path / "out", 4, '{"global_step": 3}')
    assert claim(tmp_path / "out", resume=True) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate=0\.001, now it is 0\.5"),
        ({"examples": 19}, "examples=20, now it is 19"),
        ({"packing": 64}, "packing=None, now it is 64"),
        ({"lora": {"target_modules": ("a",)}}, r"lora=None, now it is {'target_modules': \['a'\]}"),
        ({"model": nn.Linear(3, 3)}, "parameters=8, now it is 12"),
        ({"model": nn.Linear(3, 2).bfloat16()}, r"dtype='torch\.float32', now it is .*bfloat16"),
        ({"manifest": {"tokens": 101}}, "manifest_sha256="),
        ({"manifest": None}, "manifest_sha256=.* now it is None"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    claim(tmp_path / "out")
    before = (tmp_path / "out" / RECORD_NAME).read_bytes()
    with pytest.raises(PolicyError, match=f"was started with {message}"):
        claim(tmp_path / "out", resume=True, **changes)
    assert (tmp_path / "out" / RECORD_NAME).read_bytes() == before


def test_settings_are_the_same_after_their_way_through_the_record(tmp_path: Path) -> None:
    lora = {"rank": 2, "target_modules": ("q_proj", "v_proj")}
    claim(tmp_path / "out", lora=lora)
    assert claim(tmp_path / "out", lora=lora, resume=True) is None


def test_the_other_processes_find_what_the_first_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "process_index", 1)
    assert claim(tmp_path / "out") is None
    assert not (tmp_path / "out").exists()  # only the first process writes
    monkeypatch.undo()
    claim(tmp_path / "out")
    step = write_checkpoint(tmp_path / "out", 4)
    monkeypatch.setattr(TrainingArguments, "process_index", 1)
    assert claim(tmp_path / "out") is None  # nor does another object to what the first one made
    assert claim(tmp_path / "out", resume=True) == step


TEMPLATE = "{{ messages }} of the manifest"


def save(tmp_path: Path, tokenizer_path: Path | str) -> Path:
    folder = write_prepared(
        tmp_path / "prepared",
        [tiny_examples(1)],
        tokenizer_path=str(tokenizer_path),
        chat_template=TEMPLATE,
    )
    save_for_inference(tiny_model("llama"), load_prepared(folder), tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").is_file()
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, TEMPLATE),
        ("{{ 'another' }}", TEMPLATE),
        (
            {"default": TEMPLATE, "tool_use": "{{ tools }}"},
            {"default": TEMPLATE, "tool_use": "{{ tools }}"},
        ),
        # A template given to the encoder instead rendered the rows with tools too.
        ({"default": "{{ 'another' }}", "tool_use": "{{ tools }}"}, TEMPLATE),
    ],
)
def test_the_tokenizer_is_saved_with_the_templates_that_rendered_the_rows(
    tmp_path: Path, given: Any, expected: Any
) -> None:
    source = write_tokenizer(tmp_path / "tokenizer", given)
    out = save(tmp_path, source)
    assert AutoTokenizer.from_pretrained(out).chat_template == expected
    assert AutoTokenizer.from_pretrained(source).chat_template == given


def test_a_tokenizer_that_cannot_be_loaded_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lossmask"):
        out = save(tmp_path, "no/such-one")
    assert "the tokenizer no/such-one cannot be loaded" in caplog.text
    assert [path.name for path in out.iterdir()] == ["generation_config.json"]


def test_examples_in_memory_bring_no_tokenizer(tmp_path: Path) -> None:
    save_for_inference(tiny_model("llama"), None, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["generation_config.json"]
