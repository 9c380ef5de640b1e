"""Updates are those of the global batch, evaluation that of all tokens, for every batching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments

from lossmask.collate import PaddedCollator
from lossmask.errors import LossmaskError, PolicyError, PreparedDataError
from lossmask.flat_batch import FlatBatch
from lossmask.padding_free import PaddingFreeCollator
from lossmask.prepared import load_prepared
from lossmask.trainer import LossmaskTrainer
from tests.tiny_models import (
    STOP,
    Example,
    Rows,
    assert_same,
    parameters,
    tiny_examples,
    tiny_model,
    write_prepared,
)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "use_cpu": True,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 8,
        "max_steps": 1,
    }
    return TrainingArguments(**{**settings, **changes})


def weighted_loss(model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Return sum(w * nll) and sum(w), one example at a time, by the definition."""
    total, weight = torch.zeros(()), torch.zeros(())
    for example in examples:
        ids = torch.tensor(example["input_ids"][None].astype(np.int64))
        labels = torch.tensor(example["labels"].astype(np.int64))[1:]
        weights = torch.tensor(example["loss_weights"])[1:]
        nll = functional.cross_entropy(
            model(input_ids=ids).logits[0, :-1], labels, ignore_index=-100, reduction="none"
        )
        total, weight = total + (weights * nll).sum(), weight + weights.sum()
    return total, weight


def trained(folder: Path, examples: Any, name: str = "llama", **changes: Any) -> dict[str, Tensor]:
    model = tiny_model(name)
    trainer = LossmaskTrainer(model, arguments(folder, **changes), train_dataset=examples)
    trainer.train()
    return parameters(model)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_one_update_is_the_gradient_step_of_the_definition(tmp_path: Path, name: str) -> None:
    examples = tiny_examples(8)
    model = tiny_model(name)
    total, weight = weighted_loss(model, examples)
    torch.autograd.backward(total / weight)
    expected = {key: value.detach() - 0.05 * value.grad for key, value in model.named_parameters()}
    actual = trained(tmp_path, Rows(examples), name)
    assert_same(actual, expected, atol=1e-6)
    assert any(not torch.equal(actual[key], old) for key, old in parameters(model).items())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_update_does_not_depend_on_batching_or_order(tmp_path: Path, batch_size: int) -> None:
    examples = tiny_examples(8, seed=3)
    expected = trained(tmp_path / "whole", Rows(examples))
    actual = trained(
        tmp_path / "parts",
        Rows(examples[::-1]),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=-(-8 // batch_size),
        seed=batch_size,
    )
    assert_same(actual, expected, atol=1e-6)


def test_three_epochs_of_adam_do_not_depend_on_accumulation(tmp_path: Path) -> None:
    examples = tiny_examples(20, seed=4)  # 8 + 8 + 4: the last update of an epoch is a short one
    settings: dict[str, Any] = {
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-3,  # keeps Adam from amplifying rounding where a gradient is almost 0
        "max_steps": -1,
        "num_train_epochs": 3,
        "max_grad_norm": 1.0,
    }
    expected = trained(tmp_path / "whole", Rows(examples), **settings)
    actual = trained(
        tmp_path / "parts",
        Rows(examples),
        **settings,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    assert_same(actual, expected, atol=1e-6)


def test_a_micro_batch_without_supervised_token_leaves_the_update_as_it_is(tmp_path: Path) -> None:
    examples = tiny_examples(3)
    silent = {key: values.copy() for key, values in tiny_examples(1, seed=9)[0].items()}
    silent["labels"][:] = -100
    silent["loss_weights"][:] = 0
    expected = trained(tmp_path / "without", examples)
    actual = trained(
        tmp_path / "with",
        [*examples, silent],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    assert_same(actual, expected, atol=1e-6)
    with pytest.raises(PreparedDataError, match="step 1: no token of the batch is supervised"):
        trained(tmp_path / "only", [silent])


def test_logged_loss_is_that_of_the_global_batch(tmp_path: Path) -> None:
    examples = tiny_examples(8)
    model = tiny_model("llama")
    with torch.no_grad():
        total, weight = weighted_loss(model, examples)
    settings = arguments(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=1
    )
    trainer = LossmaskTrainer(model, settings, train_dataset=examples)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx((total / weight).item(), abs=1e-6)
    assert log["tokens"] == sum(len(example["input_ids"]) for example in examples)
    assert log["supervised_tokens"] == sum(
        int((example["labels"] != -100).sum()) for example in examples
    )


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_evaluation_is_that_of_the_definition_for_every_batch_size(
    tmp_path: Path, name: str
) -> None:
    examples = tiny_examples(17, seed=5)
    model = tiny_model(name)
    with torch.no_grad():
        total, weight = weighted_loss(model, examples)
        correct, stops = [], []
        for example in examples:
            ids = torch.tensor(example["input_ids"][None].astype(np.int64))
            best = model(input_ids=ids).logits[0, :-1].argmax(-1).numpy()
            chosen = example["labels"][1:] != -100
            correct += (best == example["input_ids"][1:])[chosen].tolist()
            stops += (example["input_ids"][1:] == STOP)[chosen].tolist()
    tokens = sum(len(example["input_ids"]) for example in examples)
    for batch_size in (1, 7, 17):
        trainer = LossmaskTrainer(
            model,
            arguments(tmp_path, per_device_eval_batch_size=batch_size),
            eval_dataset=Rows(examples),
            stop_ids=[STOP],
        )
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx((total / weight).item(), abs=1e-6)
        assert metrics["eval_token_accuracy"] == pytest.approx(np.mean(correct))
        hits = [right for right, stop in zip(correct, stops, strict=True) if stop]
        assert len(hits) == 17
        assert metrics["eval_stop_accuracy"] == pytest.approx(np.mean(hits))
        assert metrics["eval_supervised_tokens"] == len(correct)
        assert metrics["eval_supervised_share"] == pytest.approx(len(correct) / tokens)


def test_evaluation_over_nothing_supervised_is_an_error(tmp_path: Path) -> None:
    examples = [{"input_ids": [5, 6, 7], "labels": [-100] * 3}]
    trainer = LossmaskTrainer(tiny_model("llama"), arguments(tmp_path), eval_dataset=examples)
    with pytest.raises(PreparedDataError, match="no token of the evaluation data is supervised"):
        trainer.evaluate()


def test_several_evaluation_sets_are_reported_by_name(tmp_path: Path) -> None:
    sets = {"easy": Rows(tiny_examples(3)), "hard": Rows(tiny_examples(2, seed=1))}
    trainer = LossmaskTrainer(tiny_model("llama"), arguments(tmp_path), eval_dataset=sets)
    assert {"eval_easy_loss", "eval_hard_loss"} < trainer.evaluate().keys()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    settings = arguments(tmp_path, logging_steps=1, logging_nan_inf_filter=False)
    trainer = LossmaskTrainer(model, settings, train_dataset=tiny_examples(8))
    with pytest.raises(LossmaskError, match="the loss is nan at step 1") as caught:
        trainer.train()
    assert caught.value.reason == "loss_not_finite"


@pytest.mark.parametrize(
    "changes",
    [{"label_smoothing_factor": 0.1}, {"bf16_full_eval": True}, {"use_liger_kernel": True}],
)
def test_arguments_whose_effect_would_be_lost_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(changes))}=.* does not work here"):
        LossmaskTrainer(tiny_model("llama"), arguments(tmp_path, **changes))


def test_examples_without_weights_train_like_examples_with_weights_of_one(tmp_path: Path) -> None:
    plain = [
        {"input_ids": example["input_ids"], "labels": example["labels"]}
        for example in tiny_examples(8)
    ]
    ones = [
        {**example, "loss_weights": (example["labels"] != -100).astype(np.float32)}
        for example in plain
    ]
    assert_same(trained(tmp_path / "a", plain), trained(tmp_path / "b", ones), atol=0)


def test_left_padding_trains_like_right_padding(tmp_path: Path) -> None:
    results = []
    for side in ("right", "left"):
        model = tiny_model("gpt2")
        collator = PaddedCollator(pad_token_id=0, padding_side=side)
        LossmaskTrainer(
            model,
            arguments(tmp_path / side),
            train_dataset=tiny_examples(8),
            data_collator=collator,
        ).train()
        results.append(parameters(model))
    assert_same(results[0], results[1], atol=1e-6)


def test_batches_without_padding_train_like_padded_ones(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path / "data", [tiny_examples(8)]))
    results = []
    for name, collator in (("a", PaddedCollator(pad_token_id=0)), ("b", PaddingFreeCollator())):
        model = tiny_model("llama")
        LossmaskTrainer(
            model, arguments(tmp_path / name), train_dataset=data, data_collator=collator
        ).train()
        results.append(parameters(model))
    assert_same(results[0], results[1], atol=1e-6)


def test_a_collator_without_padding_evaluates_as_one_with_it(tmp_path: Path) -> None:
    losses = [
        LossmaskTrainer(
            tiny_model("llama"),
            arguments(tmp_path),
            eval_dataset=tiny_examples(5),
            data_collator=collator,
        ).evaluate()["eval_loss"]
        for collator in (PaddingFreeCollator(), None)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_our_collators_get_batches_as_the_data_gives_them(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path / "data", [tiny_examples(4)]))
    seen: list[Any] = []
    collate = PaddedCollator.__call__

    def recorded(self: PaddedCollator, examples: Any) -> dict[str, Any]:
        seen.append(examples)
        return collate(self, examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaddedCollator, "__call__", recorded)
        LossmaskTrainer(tiny_model("llama"), arguments(tmp_path), train_dataset=data).train()
    assert seen
    assert all(isinstance(examples, FlatBatch) for examples in seen)
