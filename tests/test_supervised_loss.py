"""The loss at the supervised positions equals the loss over all logits, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lossmask.errors import LossmaskError, PreparedDataError
from lossmask.supervised_loss import (
    head_gives_logits,
    supervised_loss,
    supervised_token_losses,
    supervised_weight,
)
from tests.tiny_models import TINY_MODELS, VOCAB_SIZE, tiny_model

Batch = dict[str, Tensor]


def make_batch(*, seed: int = 0, examples: int = 3, length: int = 11) -> Batch:
    """Random rows of unequal length with weights other than 0 and 1, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCAB_SIZE, (examples, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(examples):
        mask[row, length - row :] = 0
    supervised = (torch.rand(ids.shape, generator=generator) < 0.5) & mask.bool()
    supervised[:, 1] = True
    weights = torch.rand(ids.shape, generator=generator) * 3 + 0.1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.where(supervised, ids, -100),
        "loss_weights": torch.where(supervised, weights, 0.0),
    }


def full_logits_loss(model: Any, batch: Batch) -> Tensor:
    """Shift all logits by one and average with the weights of the predicted tokens."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nll = functional.cross_entropy(
        logits[:, :-1].reshape(-1, VOCAB_SIZE).float(),
        batch["labels"][:, 1:].reshape(-1),
        ignore_index=-100,
        reduction="none",
    )
    weights = batch["loss_weights"][:, 1:].reshape(-1)
    return (weights * nll).sum() / weights.sum()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(loss)
    return {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("chunk_positions", [1, 4, 1024])
@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_loss_and_gradients_equal_those_of_all_logits(name: str, chunk_positions: int) -> None:
    model, batch = tiny_model(name), make_batch()
    expected = full_logits_loss(model, batch)
    expected_gradients = gradients(model, expected)
    actual = supervised_loss(model, batch, chunk_positions=chunk_positions)
    actual_gradients = gradients(model, actual)
    assert actual.item() == pytest.approx(expected.item(), abs=1e-6)
    assert actual_gradients.keys() == expected_gradients.keys()
    for key, value in expected_gradients.items():
        torch.testing.assert_close(actual_gradients[key], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk_positions", [1, 4, 1024])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_head_in_chunks_gives_the_same_loss_and_gradients(name: str, chunk_positions: int) -> None:
    model, batch = tiny_model(name), make_batch(seed=1)
    expected = full_logits_loss(model, batch)
    expected_gradients = gradients(model, expected)
    actual = supervised_loss(model, batch, chunk_positions=chunk_positions, chunk_head=True)
    actual_gradients = gradients(model, actual)
    assert actual.item() == pytest.approx(expected.item(), abs=1e-6)
    for key, value in expected_gradients.items():
        torch.testing.assert_close(actual_gradients[key], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "plain"), [("llama", True), ("gpt2", True), ("gemma2", False), ("cohere", False)]
)
def test_head_gives_logits_tells_capped_and_scaled_models_apart(name: str, plain: bool) -> None:
    dropout: dict[str, Any] = {"resid_pdrop": 0.5} if name == "gpt2" else {}
    model = tiny_model(name, **dropout).train()
    state = torch.get_rng_state()
    assert head_gives_logits(model) is plain
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["gemma2", "cohere"])
def test_head_in_chunks_is_refused_for_a_model_that_changes_its_logits(name: str) -> None:
    with pytest.raises(LossmaskError, match=r"changes the output of its LM head.*chunk_head=False"):
        supervised_loss(tiny_model(name), make_batch(), chunk_head=True)


def test_only_supervised_positions_reach_the_head() -> None:
    model, batch = tiny_model("llama"), make_batch()
    shapes: list[tuple[int, ...]] = []
    forward = model.lm_head.forward

    def record(hidden: Tensor) -> Tensor:
        shapes.append(tuple(hidden.shape))
        result: Tensor = forward(hidden)
        return result

    model.lm_head.forward = record
    supervised_loss(model, batch)
    count = int((batch["labels"][:, 1:] != -100).sum())
    assert shapes == [(1, count, 16)]
    assert count < batch["labels"].numel() / 2


def test_each_loss_knows_its_token_its_weight_and_its_example() -> None:
    model = tiny_model("llama")
    batch = {
        "input_ids": torch.tensor([[7, 8, 9, 2], [5, 6, 2, 2]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[7, -100, 9, 2], [-100, -100, 2, -100]]),
        "loss_weights": torch.tensor([[9.0, 0.0, 0.5, 1.0], [0.0, 0.0, 2.0, 0.0]]),
    }
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits.log_softmax(-1)
        losses = supervised_token_losses(model, batch)
    assert losses.labels.tolist() == [9, 2, 2]  # the first token of a row is never predicted
    assert losses.weights.tolist() == [0.5, 1.0, 2.0]
    assert losses.examples.tolist() == [0, 0, 1]
    expected = torch.stack([-logits[0, 1, 9], -logits[0, 2, 2], -logits[1, 1, 2]])
    torch.testing.assert_close(losses.nll, expected)
    best = torch.stack([logits[0, 1], logits[0, 2], logits[1, 1]]).argmax(-1)
    assert losses.correct.tolist() == (best == losses.labels).tolist()
    assert supervised_weight(batch).item() == 3.5


@pytest.mark.parametrize("chunk_head", [False, True])
def test_a_batch_without_supervised_token_adds_zero_and_keeps_its_graph(chunk_head: bool) -> None:
    model, batch = tiny_model("llama"), make_batch()
    batch["labels"].fill_(-100)
    batch["loss_weights"].fill_(0)
    losses = supervised_token_losses(model, batch, chunk_head=chunk_head)
    loss = losses.weighted_sum()
    assert loss.item() == 0
    for name, value in gradients(model, loss).items():
        assert not value.any(), name


def test_a_loss_over_nothing_is_an_error() -> None:
    batch = make_batch()
    batch["labels"][:, 1:] = -100
    with pytest.raises(PreparedDataError, match=r"no supervised token among \(3, 11\)"):
        supervised_loss(tiny_model("llama"), batch)


def test_hidden_states_that_do_not_fit_the_labels_are_an_error() -> None:
    model, batch = tiny_model("llama"), make_batch()
    forward = model.model.forward

    def longer(**inputs: Any) -> Any:
        outputs = forward(**inputs)
        outputs.last_hidden_state = torch.cat([outputs.last_hidden_state] * 2, dim=1)
        return outputs

    model.model.forward = longer
    with pytest.raises(LossmaskError, match=r"hidden states \(3, 22, 16\) for labels \(3, 11\)"):
        supervised_loss(model, batch)


def test_a_model_whose_head_is_never_called_gives_the_same_loss() -> None:
    model, batch = tiny_model("llama"), make_batch()
    expected = full_logits_loss(model, batch).item()
    model.get_output_embeddings = lambda: None
    assert supervised_loss(model, batch).item() == pytest.approx(expected, abs=1e-6)
    assert not head_gives_logits(model)


def test_hooks_are_gone_after_an_error() -> None:
    model, batch = tiny_model("llama"), make_batch()
    del batch["input_ids"]
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        supervised_loss(model, batch)
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks


def test_bfloat16_logits_are_summed_in_float32() -> None:
    model, batch = tiny_model("llama").bfloat16(), make_batch()
    losses = supervised_token_losses(model, batch)
    assert losses.nll.dtype is torch.float32
    assert losses.nll.mean().item() == pytest.approx(full_logits_loss(model, batch).item(), abs=0.6)
