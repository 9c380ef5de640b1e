"""A rich progress bar for ``transformers.Trainer``."""

from __future__ import annotations

from typing import Any

from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RichProgress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Advance a progress bar at each update and show what was logged last.

    Args:
        progress: A bar with a column that shows ``task.fields["logged"]``.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = TaskID(-1)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar, now that the number of updates is known."""
        self._task = self._progress.add_task("train", total=state.max_steps, logged="")
        self._progress.update(self._task, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance."""
        self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show loss, or evaluation loss and accuracy."""
        logs = kwargs.get("logs") or {}
        shown = ("loss", "eval_loss", "eval_token_accuracy", "eval_stop_accuracy")
        parts = [f"{name} {logs[name]:.3f}" for name in shown if name in logs]
        if parts:
            self._progress.update(self._task, logged="  ".join(parts))
