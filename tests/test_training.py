"""Updates are those of the global batch, evaluation that of all tokens, a resumed run the same."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
)

from lossmask.collate import PaddedCollator
from lossmask.errors import InputError, LossmaskError, PolicyError, PreparedDataError
from lossmask.training import LoraSettings, LossmaskTrainer, TrainingResult, train
from tests.tiny_models import (
    STOP,
    VOCAB_SIZE,
    Example,
    tiny_examples,
    tiny_model,
    write_prepared,
)

pytestmark = pytest.mark.filterwarnings(
    # PEFT 0.21 reads an attribute that transformers 5.23 has renamed; nothing here can change that.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def parameters(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], atol: float) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        torch.testing.assert_close(values, right[name], atol=atol, rtol=0)


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


class Rows(Dataset[dict[str, Any]]):
    """A torch data set over examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


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


# ---- train() on a folder ---------------------------------------------------------------------


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny_model("llama", attention_dropout=0.1).save_pretrained(path)
    return path


@pytest.fixture
def tokenizer_path(tmp_path: Path) -> Path:
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    path = tmp_path / "tokenizer"
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w2").save_pretrained(path)
    return path


@pytest.fixture
def prepared(tmp_path: Path, tokenizer_path: Path) -> Path:
    examples = tiny_examples(20)
    return write_prepared(
        tmp_path / "prepared",
        [examples[:9], examples[9:]],
        rows=[index // 2 for index in range(20)],
        tokenizer_path=str(tokenizer_path),
    )


FAST: dict[str, Any] = {"use_cpu": True}


def run(prepared: Any, model: Any, output: Path, **changes: Any) -> TrainingResult:
    settings: dict[str, Any] = {
        "epochs": 2,
        "learning_rate": 1e-3,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "training_arguments": FAST,
    }
    return train(prepared, model, output, **{**settings, **changes})


def saved(folder: Path) -> dict[str, Tensor]:
    return parameters(AutoModelForCausalLM.from_pretrained(folder))


def test_training_saves_model_tokenizer_and_counts(
    prepared: Path, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(prepared, model_path, tmp_path / "out", eval_folder=prepared)
    assert result.output_dir == tmp_path / "out"
    assert result.steps == 10
    assert result.resumed_from == 0
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert result.tokens == 2 * manifest["tokens"]
    assert result.supervised_tokens == 2 * manifest["supervised_tokens"]
    assert result.train_loss is not None
    assert result.metrics["eval_loss"] < result.train_loss < 10
    assert result.metrics["eval_supervised_tokens"] == manifest["supervised_tokens"]
    assert "eval_stop_accuracy" in result.metrics
    before, after = saved(model_path), saved(tmp_path / "out")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == VOCAB_SIZE
    assert capsys.readouterr().out == ""


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(prepared, model_path, tmp_path / name, seed=seed, max_steps=3)
    assert_same(saved(tmp_path / "a"), saved(tmp_path / "b"), atol=0)
    with pytest.raises(AssertionError, match="not equal"):
        assert_same(saved(tmp_path / "a"), saved(tmp_path / "c"), atol=0)


class Kill(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Dies in the middle of a run, as a killed process would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Die at the beginning of the step after ``step``."""
        if state.global_step == self.step:
            raise KeyboardInterrupt


# Steps 1 to 5 are the first epoch: killed in it, at its end, and in the second.
@pytest.mark.parametrize(
    ("killed", "checkpoint", "lora"),
    [
        (1, 0, None),
        (3, 2, None),
        (7, 6, None),
        (10, 10, None),
        (7, 6, LoraSettings(rank=2, alpha=4, dropout=0.1)),
    ],
)
def test_a_killed_run_resumed_gives_the_weights_of_one_never_killed(
    prepared: Path, model_path: Path, tmp_path: Path, killed: int, checkpoint: int, lora: Any
) -> None:
    settings: dict[str, Any] = {
        "lora": lora,
        "eval_folder": prepared,
        "training_arguments": {**FAST, "save_steps": 2, "save_strategy": "steps"},
    }
    whole = run(prepared, model_path, tmp_path / "whole", **settings)
    if killed < 10:
        with pytest.raises(KeyboardInterrupt):
            run(prepared, model_path, tmp_path / "cut", **settings, callbacks=[Kill(killed)])
    else:
        run(prepared, model_path, tmp_path / "cut", **settings)
    result = run(prepared, model_path, tmp_path / "cut", **settings, resume=True)
    assert result.resumed_from == checkpoint
    assert result.steps == whole.steps == 10
    assert (result.train_loss is None) == (checkpoint == 10)
    assert result.metrics["eval_loss"] == whole.metrics["eval_loss"]
    assert_same(saved(tmp_path / "cut"), saved(tmp_path / "whole"), atol=0)


def test_a_half_written_checkpoint_is_passed_over(
    prepared: Path, model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {
        "training_arguments": {**FAST, "save_steps": 2, "save_strategy": "steps"}
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(prepared, model_path, whole, **settings)
    with pytest.raises(KeyboardInterrupt):
        run(prepared, model_path, cut, **settings, callbacks=[Kill(5)])
    state = cut / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    with caplog.at_level(logging.WARNING, logger="lossmask"):
        assert run(prepared, model_path, cut, **settings, resume=True).resumed_from == 2
    assert "checkpoint-4 was not written to its end" in caplog.text
    assert_same(saved(cut), saved(whole), atol=0)


def test_resuming_under_other_settings_is_refused(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    run(prepared, model_path, tmp_path / "out", max_steps=1)
    with pytest.raises(PolicyError, match=r"started with learning_rate=0\.001, now it is 0\.5"):
        run(prepared, model_path, tmp_path / "out", max_steps=1, learning_rate=0.5, resume=True)
    with pytest.raises(PolicyError, match="started with lora=None, now it is"):
        run(prepared, model_path, tmp_path / "out", max_steps=1, lora=LoraSettings(), resume=True)
    shutil.rmtree(prepared)
    write_prepared(prepared, [tiny_examples(20, seed=8)])
    with pytest.raises(PolicyError, match="started with manifest_sha256="):
        run(prepared, model_path, tmp_path / "out", max_steps=1, resume=True)


def test_lora_trains_and_saves_the_adapter_alone(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    result = run(prepared, model_path, tmp_path / "out", lora=LoraSettings(rank=2, alpha=4))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(model_path)
    adapted = PeftModel.from_pretrained(base, tmp_path / "out")
    names = [
        name for name, values in adapted.named_parameters() if "lora_B" in name and values.any()
    ]
    assert len(names) == 14  # seven linear layers in each of two blocks; not the LM head
    assert not any("lm_head" in name for name in names)
    assert result.steps == 10


def test_a_model_in_memory_is_trained_in_place_on_examples_in_memory(tmp_path: Path) -> None:
    model, examples = tiny_model("gpt2"), tiny_examples(12)
    before = parameters(model)
    result = run(
        Rows(examples),
        model,
        tmp_path / "out",
        eval_folder=tiny_examples(3, seed=1),
        stop_ids=[STOP],
    )
    assert result.steps == 6
    assert 0 <= result.metrics["eval_stop_accuracy"] <= 1
    assert any(not torch.equal(before[name], values) for name, values in parameters(model).items())
    assert_same(saved(tmp_path / "out"), parameters(model), atol=0)


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


def test_held_out_rows_keep_all_their_examples_together(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    class Spy(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen["train"] = kwargs["train_dataloader"].dataset

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen["eval"] = kwargs["eval_dataloader"].dataset

    run(prepared, model_path, tmp_path / "out", eval_share=0.3, max_steps=1, callbacks=[Spy()])
    train_indices, eval_indices = seen["train"].indices, seen["eval"].indices
    assert sorted(train_indices + eval_indices) == list(range(20))
    assert len(eval_indices) == 6
    assert not {index // 2 for index in train_indices} & {index // 2 for index in eval_indices}


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


def test_a_tokenizer_that_cannot_be_loaded_is_said(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(4)], tokenizer_path="no/such-one")
    with caplog.at_level(logging.WARNING, logger="lossmask"):
        run(folder, model_path, tmp_path / "out", max_steps=1)
    assert "the tokenizer no/such-one cannot be loaded" in caplog.text
    assert (tmp_path / "out" / "model.safetensors").is_file()


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"training_arguments": {"warmup_step": 3}}, PolicyError, "The nearest is 'warmup_steps'"),
        ({"training_arguments": {"seed": 3}}, PolicyError, "'seed': pass seed= instead"),
        (
            {"training_arguments": {"num_train_epochs": 3}},
            PolicyError,
            "'num_train_epochs': pass epochs= instead",
        ),
        (
            {"training_arguments": {**FAST, "lr_scheduler_type": "wavy"}},
            PolicyError,
            "refuses these settings: .*wavy",
        ),
        ({"eval_share": 1.0}, PolicyError, r"eval_share is 1\.0"),
        ({"eval_share": 0.1, "eval_folder": "x"}, PolicyError, "not both"),
        ({"eval_share": 0.99}, PolicyError, "of 10 rows leaves none to train on"),
        ({"eval_folder": "absent"}, PreparedDataError, "no prepared folder at absent"),
        (
            {"lora": LoraSettings(target_modules=("nose",))},
            PolicyError,
            "LoRA settings do not fit the model: .*nose",
        ),
    ],
)
def test_wrong_settings_are_refused(
    prepared: Path,
    model_path: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[LossmaskError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run(prepared, model_path, tmp_path / "out", **changes)


@pytest.mark.parametrize(
    "settings", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}]
)
def test_lora_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="give a rank of 1 or more"):
        LoraSettings(**settings)


def test_missing_data_and_missing_models_are_named(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(PreparedDataError, match=r"no prepared folder at .*absent"):
        run(tmp_path / "absent", model_path, out)
    with pytest.raises(PreparedDataError, match="holds no example"):
        run([], model_path, out)
    with pytest.raises(InputError, match=r"there is no model at .*absent"):
        run(prepared, tmp_path / "absent", out)
    (model_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"model cannot be loaded: .*Expected a causal language"):
        run(prepared, model_path, out)
    (model_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"model cannot be loaded: .*Expected a causal language"):
        run(prepared, model_path, out)
    assert not out.exists()


def test_a_token_without_embedding_is_named(model_path: Path, tmp_path: Path) -> None:
    examples = tiny_examples(4)
    examples[2]["input_ids"][0] = VOCAB_SIZE
    folder = write_prepared(tmp_path / "data", [examples])
    message = rf"example 2.*token id {VOCAB_SIZE} has no embedding; the model has {VOCAB_SIZE}"
    with pytest.raises(PreparedDataError, match=message):
        run(folder, model_path, tmp_path / "out")
    with pytest.raises(PreparedDataError, match=message):
        run(examples, model_path, tmp_path / "out")


def test_an_example_in_memory_without_loss_is_named(model_path: Path, tmp_path: Path) -> None:
    examples = [*tiny_examples(2), {"input_ids": [4, 5], "labels": [4, -100]}]
    with pytest.raises(PreparedDataError, match="example 2 has no token in the loss"):
        run(examples, model_path, tmp_path / "out")


def test_an_output_folder_in_use_is_left_alone(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out is not an empty folder"):
        run(prepared, model_path, out)
    with pytest.raises(InputError, match="is not the output of `lossmask train`"):
        run(prepared, model_path, out, resume=True)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is not an empty folder"):
        run(prepared, model_path, out / "thesis.txt")
