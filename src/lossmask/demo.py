"""Fine-tune the shipped model with the mask and without, and show what each way has learned.

In: nothing but the assets of the package. Out: a `DemoResult`, and the same on a rich console.

Both arms start from the same weights and see the same rows in the same order with the same
optimizer; only the labels differ::

    completions only   -100 -100 -100 -100 -100  bil ling  |  ...  <|im_end|>
    full sequence      <|im_start|> user Hello , ...  bil ling  |  ...  <|im_end|>
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from lossmask.data_files import check_files, read_rows
from lossmask.demo_display import (
    print_predictions,
    print_prepared,
    print_verdict,
    progress_bars,
)
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_HELDOUT, DEMO_MODEL
from lossmask.encoder import Encoder
from lossmask.example import Example
from lossmask.training import train

__all__ = ["Arm", "DemoResult", "Prediction", "run_demo"]

RIGHT = 0.95
"""Share of held-out answers, each right to the last character, at which an arm counts as done."""
LONGEST_ANSWER = 24
"""Tokens after which an answer that has not stopped is cut, and wrong."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much the demo trains."""

    rows: int = 320
    """Conversations to train on."""
    held_out_rows: int = 80
    """Conversations whose answers are predicted."""
    epochs: int = 10
    """Passes over the rows at most; an arm ends sooner once its answers are right."""
    batch_size: int = 8
    """Examples per optimizer step."""
    learning_rate: float = 1e-3
    """Peak and plateau, after a short warm-up."""


QUICK = Settings(rows=96, held_out_rows=32, epochs=3)
"""Seconds instead of minutes: enough to see the answers improve."""


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out prompt: the messages before an assistant turn, and what that turn says."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A held-out prompt and what the model says to it, before fine-tuning and after."""

    prompt: str
    """The last user message."""
    expected: str
    before: str
    after_completions: str
    """After training on completions only."""
    after_full_sequence: str
    """After training on every token, for as many epochs as that arm had."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What training in one way led to."""

    name: str
    accuracies: tuple[float, ...]
    """Share of held-out answers that are exactly right: before training, then after each epoch."""
    epochs_needed: int | None
    """The first epoch after which that share was `RIGHT`; None if it never was."""
    supervised_tokens: int
    """Tokens in the loss, in one epoch."""
    seconds: float
    """Wall clock, evaluation included."""
    answers: tuple[str, ...]
    """The last answers, one per held-out prompt."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured."""

    seed: int
    tokens: int
    """Tokens of the training examples."""
    completions: Arm
    """Loss on completions only: what lossmask does."""
    full_sequence: Arm
    """Loss on every token."""
    predictions: tuple[Prediction, ...]
    """One per held-out prompt."""
    target: float = RIGHT
    """Share of right answers that `Arm.epochs_needed` counts up to."""


def load_rows(path: Path) -> list[list[Message]]:
    """Read the conversations of a JSONL file, each a list of messages.

    Raises:
        InputError: The file is missing: the package is not installed whole.
    """
    check_files([path])
    return [raw.parse()["messages"] for raw in read_rows([path])]


def questions(rows: Sequence[Sequence[Message]]) -> list[Question]:
    """Return one question for each assistant turn.

    >>> rows = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    >>> questions(rows)[0].answer
    'Hello'
    """
    return [
        Question(tuple(messages[:index]), message["content"])
        for messages in rows
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    *,
    batch_size: int = 64,
) -> list[str]:
    """Answer greedily, each until the stop token; what never stops ends in ``…``.

    Args:
        model: Predicts; left in the mode it was in.
        tokenizer: With the chat template of the model.
        asked: The prompts.
        batch_size: Prompts answered at a time, those of like length together.
    """
    was_training = model.training
    model.eval()
    prompts = [
        tokenizer.apply_chat_template(
            list(question.messages), tokenize=False, add_generation_prompt=True
        )
        for question in asked
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _answer_batch(model, tokenizer, [prompts[index] for index in chosen])
        for index, text in zip(chosen, texts, strict=True):
            found[index] = text
    model.train(was_training)
    return found


def _answer_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> Iterator[str]:
    batch = tokenizer(
        prompts,
        add_special_tokens=False,
        padding=True,
        padding_side="left",
        return_token_type_ids=False,
        return_tensors="pt",
    ).to(model.device)
    width = batch["input_ids"].shape[1]
    output = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    for ids in output[:, width:].tolist():
        stops = tokenizer.eos_token_id in ids
        end = ids.index(tokenizer.eos_token_id) if stops else len(ids)
        yield tokenizer.decode(ids[:end]) + ("" if stops else "…")


def accuracy(given: Sequence[str], asked: Sequence[Question]) -> float:
    """Return the share of answers that are exactly right, from 0 to 1."""
    right = (text == question.answer for text, question in zip(given, asked, strict=True))
    return sum(right) / len(asked)


def epochs_until_right(accuracies: Sequence[float]) -> int | None:
    """Return the first epoch whose accuracy is at least `RIGHT`; index 0 is before training.

    >>> epochs_until_right([0.0, 0.5, 0.96, 0.94])
    2
    >>> epochs_until_right([0.0, 0.5]) is None
    True
    """
    return next((epoch for epoch, share in enumerate(accuracies) if share >= RIGHT), None)


@dataclass(eq=False)
class _Examiner(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Answer the held-out prompts after each epoch, and end the training once they are right."""

    tokenizer: PreTrainedTokenizerBase
    asked: Sequence[Question]
    progress: Progress
    name: str
    epochs: int
    accuracies: list[float]
    given: list[str] = field(default_factory=list)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.task = self.progress.add_task(self.name, total=state.max_steps, note="")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        epoch = min(len(self.accuracies), self.epochs)
        note = f"epoch {epoch}, {self.accuracies[-1]:4.0%} right"
        self.progress.update(self.task, advance=1, note=note)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **_: Any,
    ) -> None:
        self.given = answers(model, self.tokenizer, self.asked)
        self.accuracies.append(accuracy(self.given, self.asked))
        done = self.accuracies[-1] >= RIGHT
        note = f"epoch {len(self.accuracies) - 1}, {self.accuracies[-1]:4.0%} right"
        self.progress.update(self.task, note=note)
        if done:
            control.should_training_stop = True
            self.progress.update(self.task, total=state.global_step)


def training_items(
    examples: Sequence[Example], *, completions_only: bool
) -> list[Mapping[str, Any]]:
    """Return what the trainer takes: with only completions in the loss, or every token."""
    return [
        {
            "input_ids": example.input_ids,
            "labels": example.labels if completions_only else example.input_ids,
        }
        for example in examples
    ]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What both arms share."""

    tokenizer: PreTrainedTokenizerBase
    examples: Sequence[Example]
    asked: Sequence[Question]
    before: Sequence[str]
    settings: Settings
    seed: int


def train_arm(lesson: _Lesson, progress: Progress, *, completions_only: bool) -> Arm:
    """Fine-tune the shipped model in one of the two ways."""
    name = "completions only" if completions_only else "full sequence"
    settings, start = lesson.settings, time.perf_counter()
    examiner = _Examiner(
        lesson.tokenizer,
        lesson.asked,
        progress,
        name,
        settings.epochs,
        [accuracy(lesson.before, lesson.asked)],
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            training_items(lesson.examples, completions_only=completions_only),
            load_model(),
            folder,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=lesson.seed,
            callbacks=[examiner],
            training_arguments={
                "lr_scheduler_type": "constant_with_warmup",
                "warmup_steps": 10,
                "save_strategy": "no",
            },
        )
    supervised = (
        example.supervised_count if completions_only else len(example)
        for example in lesson.examples
    )
    return Arm(
        name=name,
        accuracies=tuple(examiner.accuracies),
        epochs_needed=epochs_until_right(examiner.accuracies),
        supervised_tokens=sum(supervised),
        seconds=time.perf_counter() - start,
        answers=tuple(examiner.given),
    )


def load_model() -> PreTrainedModel:
    """Load the shipped model in float32."""
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own over those of the demo."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


def run_demo(console: Console, *, seed: int = 0, quick: bool = False) -> DemoResult:
    """Fine-tune the shipped model in both ways and print what came of it.

    Args:
        console: Where to print.
        seed: Of the order of the rows.
        quick: Train for seconds, not minutes, on fewer rows; too short for the answers to be right.

    Returns:
        The accuracies of both arms and the answers to the held-out prompts.

    Raises:
        InputError: An asset of the package is missing.
    """
    settings = QUICK if quick else Settings()
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    rows = load_rows(DEMO_CONVERSATIONS)[: settings.rows]
    examples = [example for messages in rows for example in encoder.encode(messages)]
    print_prepared(console, rows, examples)
    asked = questions(load_rows(DEMO_HELDOUT)[: settings.held_out_rows])
    with without_progress_bars(), progress_bars(console) as progress:
        task = progress.add_task("before", total=1, note=f"answering {len(asked)} held-out prompts")
        before = answers(load_model(), encoder.tokenizer, asked)
        progress.update(task, advance=1, note=f"{accuracy(before, asked):4.0%} right")
        lesson = _Lesson(encoder.tokenizer, examples, asked, before, settings, seed)
        completions = train_arm(lesson, progress, completions_only=True)
        full_sequence = train_arm(lesson, progress, completions_only=False)
    result = DemoResult(
        seed=seed,
        tokens=sum(map(len, examples)),
        completions=completions,
        full_sequence=full_sequence,
        predictions=tuple(_predictions(lesson, completions, full_sequence)),
    )
    print_predictions(console, result)
    print_verdict(console, result)
    return result


def _predictions(lesson: _Lesson, completions: Arm, full_sequence: Arm) -> Iterator[Prediction]:
    columns = zip(
        lesson.asked, lesson.before, completions.answers, full_sequence.answers, strict=True
    )
    for question, before, after, after_full in columns:
        prompt = question.messages[-1]["content"]
        yield Prediction(prompt, question.answer, before, after, after_full)
