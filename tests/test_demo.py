"""The demo's data is fair, its figures follow from its answers, its short form learns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("torch")

from lossmask import Encoder
from lossmask.demo import (
    DemoResult,
    Message,
    Question,
    accuracy,
    answers,
    epochs_until_right,
    load_model,
    load_rows,
    questions,
    run_demo,
    training_items,
)
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_HELDOUT, DEMO_MODEL
from lossmask.errors import InputError

MAIL: list[Message] = [
    {"role": "user", "content": "The sofa broke."},
    {"role": "assistant", "content": "repairs | urgent | phone"},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "closed"},
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def users(path: Path) -> set[str]:
    rows = load_rows(path)
    return {message["content"] for row in rows for message in row if message["role"] == "user"}


def test_no_held_out_mail_is_trained_on() -> None:
    assert not users(DEMO_CONVERSATIONS) & users(DEMO_HELDOUT)


def test_the_data_has_single_turns_two_turns_and_system_messages() -> None:
    for path in (DEMO_CONVERSATIONS, DEMO_HELDOUT):
        shapes = {"-".join(message["role"][0] for message in row) for row in load_rows(path)}
        assert shapes == {"u-a", "u-a-u-a", "s-u-a", "s-u-a-u-a"}


def test_assets_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in DEMO_MODEL.iterdir()}
    assert sum(sizes.values()) < 5_000_000
    assert DEMO_CONVERSATIONS.stat().st_size < 300_000


def test_a_missing_asset_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*nowhere\.jsonl"):
        load_rows(tmp_path / "nowhere.jsonl")


def test_every_assistant_turn_is_a_question() -> None:
    first, second = questions([MAIL])
    assert first == Question(tuple(MAIL[:1]), "repairs | urgent | phone")
    assert second == Question(tuple(MAIL[:3]), "closed")


def test_accuracy_counts_exact_answers() -> None:
    asked = questions([MAIL])
    assert accuracy(["repairs | urgent | phone", "closed…"], asked) == 0.5


@pytest.mark.parametrize(
    ("accuracies", "epoch"),
    [([0.0, 0.2, 0.95], 2), ([0.0, 0.949], None), ([1.0], 0), ([0.0, 1.0, 0.3, 1.0], 1)],
)
def test_epochs_until_right(accuracies: list[float], epoch: int | None) -> None:
    assert epochs_until_right(accuracies) == epoch


def test_the_arms_differ_in_labels_alone(encoder: Encoder) -> None:
    examples = encoder.encode(MAIL)
    [masked] = training_items(examples, completions_only=True)
    [full] = training_items(examples, completions_only=False)
    np.testing.assert_array_equal(masked["input_ids"], full["input_ids"])
    np.testing.assert_array_equal(full["labels"], full["input_ids"])
    kept = masked["labels"] != -100
    text = encoder.tokenizer.decode(masked["labels"][kept])
    assert text == "repairs | urgent | phone<|im_end|>closed<|im_end|>"


def test_answers_do_not_depend_on_what_else_is_asked(encoder: Encoder) -> None:
    asked = questions(load_rows(DEMO_HELDOUT)[:6])
    model = load_model().train()
    together = answers(model, encoder.tokenizer, asked)
    assert together == answers(model, encoder.tokenizer, asked, batch_size=1)
    assert model.training


@pytest.fixture(scope="module")
def quick_result() -> tuple[DemoResult, str]:
    console = Console(file=io.StringIO(), width=120)
    result = run_demo(console, quick=True)
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


@pytest.mark.slow  # two trainings
def test_the_short_demo_learns_with_the_mask(quick_result: tuple[DemoResult, str]) -> None:
    result, _ = quick_result
    assert result.completions.accuracies[0] == 0.0
    assert result.completions.accuracies[-1] > 0.1
    assert max(result.completions.accuracies) > max(result.full_sequence.accuracies)
    assert result.completions.supervised_tokens < result.full_sequence.supervised_tokens
    assert result.full_sequence.supervised_tokens == result.tokens


@pytest.mark.slow
def test_the_short_demo_reports_what_it_measured(quick_result: tuple[DemoResult, str]) -> None:
    result, output = quick_result
    for prediction, question in zip(
        result.predictions, questions(load_rows(DEMO_HELDOUT)), strict=False
    ):
        assert prediction.expected == question.answer
        assert prediction.prompt == question.messages[-1]["content"]
    right = [one.after_completions == one.expected for one in result.predictions]
    assert result.completions.accuracies[-1] == sum(right) / len(right)
    assert "completions only" in output
    assert f"{result.completions.supervised_tokens:,}" in output
    assert "Too short for the answers to be right" in output
