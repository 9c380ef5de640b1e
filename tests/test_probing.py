"""What a probe tells of each token equals what the model says of its example alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch

from lossmask import probing
from lossmask.errors import InputError, LossmaskError, PolicyError, PreparedDataError
from lossmask.prepared import load_prepared
from lossmask.probed_tokens import ProbedTokens
from lossmask.probing import batches_of, probe, token_predictions
from tests.tiny_models import (
    TINY_MODELS,
    VOCAB_SIZE,
    Example,
    tiny_examples,
    tiny_model,
    write_prepared,
)

TOP = 4


@pytest.fixture
def examples() -> list[Example]:
    return tiny_examples(11, seed=3)


@pytest.fixture
def prepared(tmp_path: Path, examples: list[Example]) -> Path:
    return write_prepared(tmp_path / "prepared", [examples[:5], examples[5:]])


def alone(model: Any, examples: list[Example], *, all_tokens: bool) -> ProbedTokens:
    """Run the model on each example by itself, and sort the whole vocabulary of each token."""
    rows: list[tuple[Any, ...]] = []
    for number, example in enumerate(examples):
        ids = torch.tensor(example["input_ids"][None], dtype=torch.int64)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].float().numpy()
        for position in range(1, len(example["input_ids"])):
            if not all_tokens and example["labels"][position] == -100:
                continue
            scores: npt.NDArray[np.float64] = logits[position - 1].astype(np.float64)
            logprobs = scores - scores.max()
            logprobs -= np.log(np.exp(logprobs).sum())
            token = int(example["input_ids"][position])
            order = np.lexsort((np.arange(len(scores)), -scores))[:TOP]
            weight = example["loss_weights"][position]
            above = sum(1 for score in scores if score > scores[token])
            rows.append(
                (number, position, token, weight, -logprobs[token], above, order, logprobs[order])
            )
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    return ProbedTokens(*columns)


def assert_same(found: ProbedTokens, expected: ProbedTokens, *, atol: float = 1e-6) -> None:
    for name, values in expected.columns().items():
        close = name in ("loss", "top_logprobs")
        np.testing.assert_allclose(
            found.columns()[name], values, rtol=0, atol=atol if close else 0, err_msg=name
        )


@pytest.mark.parametrize("all_tokens", [False, True])
@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_every_token_is_told_as_the_model_tells_it_of_its_example_alone(
    name: str, all_tokens: bool, prepared: Path, examples: list[Example]
) -> None:
    model = tiny_model(name)
    expected = alone(model, examples, all_tokens=all_tokens)
    assert len(set(expected.rank.tolist())) > 10
    for batch_size, max_tokens in [(1, 1), (3, 8192), (8, 30), (16, 8192)]:
        found = probe(
            prepared,
            model,
            batch_size=batch_size,
            max_tokens=max_tokens,
            top_k=TOP,
            all_tokens=all_tokens,
        )
        assert_same(found, expected)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_logits_in_chunks_change_nothing(
    name: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name)
    whole = probe(prepared, model)
    monkeypatch.setattr(probing, "LOGITS_AT_ONCE", 3 * VOCAB_SIZE + 1)
    seen: list[int] = []
    forward = model.lm_head.forward

    def record(hidden: Any) -> Any:
        seen.append(hidden.shape[-2])
        return forward(hidden)

    model.lm_head.forward = record
    assert_same(probe(prepared, model), whole)
    assert max(seen) == 3 if name == "llama" else max(seen) > 3  # capped logits come all at once


def test_tied_tokens_come_by_id_and_do_not_count_in_the_rank() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5:25] = model.lm_head.weight[5]
        model.lm_head.weight[30:] = 0
    batch = {
        "input_ids": torch.tensor([[4, 9, 31]]),
        "labels": torch.tensor([[-100, 9, 31]]),
        "loss_weights": torch.ones(1, 3),
        "attention_mask": torch.ones(1, 3, dtype=torch.int64),
    }
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits[0, :2].double().numpy()
    _, ranks, top_ids, _ = token_predictions(model, batch, top_k=8)
    for k, token in enumerate([9, 31]):
        assert ranks[k] == (logits[k] > logits[k, token]).sum()
        order = np.lexsort((np.arange(VOCAB_SIZE), -logits[k]))
        assert top_ids[k].tolist() == order[:8].tolist()
        assert len(set(logits[k, order[:10]])) < 10


def test_no_more_tokens_are_told_than_the_vocabulary_has(prepared: Path) -> None:
    found = probe(prepared, tiny_model("llama"), top_k=1000, limit=1)
    assert found.top_ids.shape == (len(found), VOCAB_SIZE)
    np.testing.assert_allclose(np.exp(found.top_logprobs).sum(axis=1), 1, rtol=1e-5)


def test_a_limit_takes_the_first_examples(prepared: Path) -> None:
    model = tiny_model("llama")
    assert sorted(set(probe(prepared, model, limit=4).example.tolist())) == [0, 1, 2, 3]
    assert max(probe(prepared, model, limit=400).example) == 10


def test_a_model_is_left_in_its_mode_and_dropout_is_off(prepared: Path) -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    first, again = probe(prepared, model), probe(prepared, model)
    assert model.training
    assert np.array_equal(first.loss, again.loss)


def test_examples_share_batches_that_are_not_too_large() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    batches = list(batches_of(lengths, batch_size=7, max_tokens=64))
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    for places in batches:
        assert len(places) <= 7
        assert len(places) == 1 or len(places) * lengths[places].max() <= 64


def test_the_folder_holds_a_row_for_each_token(tmp_path: Path, prepared: Path) -> None:
    output = tmp_path / "probed"
    found = probe(prepared, tiny_model("llama"), output=output, top_k=3)
    table = pq.read_table(output / "part-00000.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "example": "int32",
        "position": "int32",
        "token": "int32",
        "weight": "float",
        "loss": "float",
        "rank": "int32",
        "top_ids": "fixed_size_list<element: int32>[3]",
        "top_logprobs": "fixed_size_list<element: float>[3]",
    }
    assert table.column("loss").to_pylist() == found.loss.tolist()
    assert table.column("top_ids").to_pylist() == found.top_ids.tolist()


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "EXAMPLES_PER_PART", 4)
    model, output, told = tiny_model("llama"), tmp_path / "probed", list[int]()
    whole = probe(prepared, model, output=output)
    assert sorted(each.name for each in output.glob("*.parquet")) == [
        f"part-0000{number}.parquet" for number in range(3)
    ]
    (output / "part-00001.parquet").unlink()
    calls: list[object] = []
    handle = model.model.register_forward_pre_hook(lambda *given: calls.append(given))
    again = probe(prepared, model, output=output, progress=told.append)
    handle.remove()
    assert len(calls) == 2  # whether its head gives the logits, and the part that is missing
    assert sum(told) == load_prepared(prepared).manifest["tokens"]
    assert_same(again, whole, atol=0)


def test_a_folder_of_another_probe_is_refused(tmp_path: Path, prepared: Path) -> None:
    model, output = tiny_model("llama"), tmp_path / "probed"
    probe(prepared, model, output=output, top_k=2)
    with pytest.raises(InputError, match=r"holds the probe of top_k=2, now it is 3"):
        probe(prepared, model, output=output, top_k=3)
    with pytest.raises(InputError, match=r"holds the probe of model="):
        probe(prepared, tiny_model("llama", seed=1), output=output, top_k=2)
    with pytest.raises(InputError, match=r"nor one that `lossmask probe` wrote"):
        probe(prepared, model, output=prepared)


def test_a_loss_that_is_no_number_is_an_error_with_its_place(prepared: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[:] = float("nan")
    with pytest.raises(LossmaskError, match=r"example \d+, token \d+: the loss is nan"):
        probe(prepared, model)


def test_a_token_outside_of_the_model_is_an_error(tmp_path: Path, examples: list[Example]) -> None:
    examples[2]["input_ids"][0] = VOCAB_SIZE
    folder = write_prepared(tmp_path / "other", [examples])
    with pytest.raises(PreparedDataError, match=rf"token id {VOCAB_SIZE} has no embedding"):
        probe(folder, tiny_model("llama"))


def test_settings_that_cannot_be_are_errors(tmp_path: Path, prepared: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(PolicyError, match=r"top_k is 0; give 1 or more"):
        probe(prepared, model, top_k=0)
    with pytest.raises(PolicyError, match=r"the device 'nowhere' cannot be used"):
        probe(prepared, model, device="nowhere")
    with pytest.raises(PolicyError, match=r"dtype is 'float33'"):
        probe(prepared, model, dtype="float33")
    with pytest.raises(PreparedDataError, match=r"holds no example"):
        probe(write_prepared(tmp_path / "empty", [[]]), model)


def test_equal_logits_are_ordered_by_id_whatever_order_they_come_in() -> None:
    values = torch.tensor([[2.0, 1.0, 1.0, 0.5], [3.0, 3.0, 3.0, 3.0]])
    ids = torch.tensor([[5, 9, 3, 0], [8, 2, 6, 4]])
    assert probing._by_value(values, ids).tolist() == [[5, 3, 9, 0], [2, 4, 6, 8]]
