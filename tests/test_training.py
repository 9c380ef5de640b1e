"""A resumed run is the same run, and the saved model stops where it was trained to stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    TrainerCallback,
)

from lossmask.errors import InputError, LossmaskError, PolicyError, PreparedDataError
from lossmask.training import LoraSettings, TrainingResult, train
from tests.tiny_models import (
    EOS,
    STOP,
    VOCAB_SIZE,
    Rows,
    assert_same,
    parameters,
    tiny_examples,
    tiny_model,
    write_prepared,
    write_tokenizer,
)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny_model("llama", attention_dropout=0.1).save_pretrained(path)
    return path


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    examples = tiny_examples(20)
    return write_prepared(
        tmp_path / "prepared",
        [examples[:9], examples[9:]],
        rows=[index // 2 for index in range(20)],
        tokenizer_path=str(write_tokenizer(tmp_path / "tokenizer", "{{ 'its own' }}")),
        chat_template=TEMPLATE,
    )


FAST: dict[str, Any] = {"use_cpu": True}
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


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


def test_a_finished_run_that_ended_within_an_epoch_makes_no_step_more(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    run(prepared, model_path, tmp_path / "out", max_steps=3)
    before = saved(tmp_path / "out")
    result = run(prepared, model_path, tmp_path / "out", max_steps=3, resume=True)
    assert (result.steps, result.resumed_from, result.tokens) == (3, 3, 0)
    assert result.train_loss is None
    assert_same(saved(tmp_path / "out"), before, atol=0)


def test_the_last_step_is_logged_whatever_the_interval(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    result = run(prepared, model_path, tmp_path / "out", max_steps=3)
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [(entry["step"], entry["loss"]) for entry in log if "loss" in entry] == [
        (3, pytest.approx(result.train_loss))
    ]


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


@pytest.mark.filterwarnings(
    # loading the adapter, PEFT 0.21 asks transformers 5.23 under a name that will go in version 6
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
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


def generation_eos(folder: Path) -> Any:
    return GenerationConfig.from_pretrained(folder).eos_token_id


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_the_saved_model_stops_where_it_was_trained_to_stop(
    prepared: Path, model_path: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    assert generation_eos(model_path) == EOS
    run(prepared, model_path, tmp_path / "out", max_steps=1, lora=lora)
    assert generation_eos(tmp_path / "out") == [EOS, STOP]
    if lora is None:  # PEFT saves no generation_config in its checkpoints
        assert generation_eos(tmp_path / "out" / "checkpoint-1") == [EOS, STOP]


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        (None, None, [EOS, STOP]),
        ([9, STOP], None, [9, STOP, EOS]),
        ([STOP, EOS], None, [STOP, EOS]),
        (EOS, [7], [EOS, STOP, 7]),
    ],
)
def test_stop_ids_are_added_to_those_that_generation_has(
    prepared: Path, tmp_path: Path, before: Any, given: Any, after: list[int]
) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = before
    run(prepared, model, tmp_path / "out", max_steps=1, stop_ids=given)
    assert model.generation_config.eos_token_id == generation_eos(tmp_path / "out") == after


def test_examples_in_memory_without_stop_ids_leave_generation_as_it_is(tmp_path: Path) -> None:
    run(tiny_examples(4), tiny_model("llama"), tmp_path / "out", max_steps=1)
    assert generation_eos(tmp_path / "out") == EOS
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_published_generation_config_that_contradicts_itself_can_be_saved(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    path = model_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": 0.6}))
    run(prepared, model_path, tmp_path / "out", max_steps=1)
    assert generation_eos(tmp_path / "out") == [EOS, STOP]
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.6


def test_the_saved_tokenizer_has_the_template_of_the_manifest(
    prepared: Path, model_path: Path, tmp_path: Path
) -> None:
    run(prepared, model_path, tmp_path / "out", max_steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE
    messages = [{"role": "user", "content": "w7"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "w7\n"


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"training_arguments": {"warmup_step": 3}},
            PolicyError,
            "no field of .*TrainingArguments; did you mean 'warmup_steps'",
        ),
        (
            {"training_arguments": {"num_train_epoch": 3}},
            PolicyError,
            r"'num_train_epoch', no field (?!.*'num_train_epochs')",
        ),
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
