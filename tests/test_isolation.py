"""Documents of one row are the documents alone, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainingArguments,
)

from lossmask.errors import PolicyError
from lossmask.isolation import check_isolation
from lossmask.packed_examples import pack_examples
from lossmask.padding_free import PaddingFreeCollator
from lossmask.trainer import LossmaskTrainer
from tests.tiny_models import (
    VOCAB_SIZE,
    Example,
    parameters,
    tiny_examples,
    tiny_gemma2,
    tiny_gpt2,
    tiny_llama,
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
ISOLATE: dict[str, Callable[..., Any]] = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "gemma2": lambda **more: tiny_gemma2(initializer_range=0.1, **more),
    "qwen2 with a window": lambda **more: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1, **more)
    ),
    "gpt_neox": lambda **more: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **more)),
    "mixtral": lambda **more: MixtralForCausalLM(
        MixtralConfig(**SIZES, num_local_experts=4, experts_implementation="eager", **more)
    ),
}
LEAK: dict[str, Callable[..., Any]] = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        )
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=16, n_layer=2, n_head=2)
    ),
    "falcon": lambda: FalconForCausalLM(
        FalconConfig(
            vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
        )
    ),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**SIZES, num_local_experts=4, attn_implementation="eager")
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
}
CASES = [
    (name, attention)
    for name in ISOLATE
    for attention in ("sdpa", "eager")
    if (name, attention) != ("gemma2", "sdpa")  # which has none
]


def build(name: str, attention: str, **changes: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ISOLATE[name](attn_implementation=attention, **changes).eval()


def packed(examples: list[Example]) -> list[list[Example]]:
    """Return the documents of packs of 32 tokens, three or more in most."""
    packs = pack_examples(examples, 32)
    return [[dict(document) for document in packs[number]] for number in range(len(packs))]


def logits(model: Any, batch: dict[str, Any], **more: Any) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        found: torch.Tensor = model(**inputs, use_cache=False, **more).logits[0]
    return found


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_logits_in_a_pack_are_those_of_the_document_alone(name: str, attention: str) -> None:
    model = build(name, attention).double()
    check_isolation(model)
    collate = PaddingFreeCollator()
    packs = packed(tiny_examples(12))
    assert max(map(len, packs)) >= 3
    for documents in packs:
        together = logits(model, collate([documents]))
        start = 0
        for document in documents:
            end = start + len(document["input_ids"])
            alone = logits(model, collate([document]))
            torch.testing.assert_close(together[start:end], alone, rtol=0, atol=1e-6)
            start = end


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_several_packs_in_a_batch_are_apart_too(attention: str) -> None:
    model = build("llama", attention).double()
    collate = PaddingFreeCollator()
    packs = packed(tiny_examples(12))
    batch = collate([packs[1], packs[0]])
    each = [logits(model, collate([packs[number]])) for number in (1, 0)]
    torch.testing.assert_close(logits(model, batch), torch.cat(each), rtol=0, atol=1e-6)


@pytest.mark.parametrize("contaminated", ["attention_mask", "cache", "positions"])
def test_the_comparison_sees_what_is_not_apart(contaminated: str) -> None:
    """A mask of ones, a cache, positions that go on: in each, documents see each other."""
    model = build("llama", "sdpa").double()
    documents = packed(tiny_examples(12))[0]
    batch = PaddingFreeCollator()([documents])
    right = logits(model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    options: dict[str, Any] = {"use_cache": False}
    if contaminated == "attention_mask":
        options["attention_mask"] = torch.ones_like(batch["input_ids"])
    elif contaminated == "cache":
        options["use_cache"] = True
    else:
        inputs["position_ids"] = torch.arange(len(right))[None]
    with torch.no_grad():
        wrong = model(**inputs, **options).logits[0]
    first = len(documents[0]["input_ids"])
    torch.testing.assert_close(wrong[:first], right[:first], rtol=0, atol=1e-6)
    assert (wrong[first:] - right[first:]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_loss_and_gradients_of_packs_are_those_of_separate_documents(
    name: str, attention: str, tmp_path: Path
) -> None:
    examples = tiny_examples(12)
    for example in examples[::2]:  # trained from the first token on, which nothing predicts
        example["labels"] = example["input_ids"]
        example["loss_weights"] = np.ones(len(example["labels"]), np.float32)
    packs = packed(examples)
    whole = update(name, attention, tmp_path, packs)
    single = update(name, attention, tmp_path, [[document] for document in examples])
    torch.testing.assert_close(whole[0], single[0], rtol=0, atol=1e-6)
    for key, gradient in single[1].items():
        torch.testing.assert_close(whole[1][key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def update(
    name: str, attention: str, folder: Path, batches: list[list[Example]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return loss and gradients of one optimizer step of the trainer over micro-batches."""
    model = build(name, attention).double()
    collate = PaddingFreeCollator()
    trainer = LossmaskTrainer(
        model,
        TrainingArguments(str(folder), report_to="none", use_cpu=True),
        data_collator=collate,
    )
    trainer.state.max_steps = 1
    made, weight = trainer.get_batch_samples(
        iter([collate(batch) for batch in batches]), len(batches), torch.device("cpu")
    )
    assert len(made) == len(batches)
    loss = torch.stack(
        [trainer.compute_loss(model, batch, num_items_in_batch=weight) for batch in made]
    ).sum()
    torch.autograd.backward(loss)
    return loss.detach(), {
        key: values.grad for key, values in model.named_parameters() if values.grad is not None
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_check_passes_in_every_number_format(dtype: torch.dtype) -> None:
    for name in ("llama", "gpt2", "mixtral"):
        check_isolation(build(name, "sdpa").to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        check_isolation(build("llama", "sdpa"))


@pytest.mark.parametrize("name", LEAK)
def test_a_model_that_does_not_keep_documents_apart_is_refused(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LEAK[name]()
    for kind in (torch.float32, torch.bfloat16):
        with pytest.raises(PolicyError, match=r"does not keep the documents of a pack") as caught:
            check_isolation(model.to(kind))
        assert caught.value.reason == "documents_not_isolated"
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(PolicyError, match="Train without packing, which pads instead"):
        LossmaskTrainer(model.float(), arguments, data_collator=PaddingFreeCollator())
    LossmaskTrainer(model, arguments)  # which pads


def test_a_model_that_takes_no_positions_is_refused() -> None:
    model = build("llama", "sdpa")
    forward = model.forward
    model.forward = lambda input_ids, use_cache: forward(input_ids, use_cache=use_cache)
    with pytest.raises(PolicyError, match="unexpected keyword argument 'position_ids'"):
        check_isolation(model)


def test_a_document_that_depends_on_its_place_alone_is_refused() -> None:
    """Nothing flows between the documents, but the second is not what it is by itself."""
    model = build("gpt2", "sdpa")
    forward = model.forward

    def shifted(position_ids: torch.Tensor, **inputs: Any) -> Any:
        begins = (position_ids == 0).cumsum(dim=1) - 1
        return forward(position_ids=position_ids + 9 * begins, **inputs)

    model.forward = shifted
    with pytest.raises(PolicyError, match=r"\(gradient up to 0\.0e\+00\) or on its place"):
        check_isolation(model)


def test_what_cannot_be_told_is_refused() -> None:
    model = build("llama", "sdpa")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(PolicyError, match=r"its gradients are 0\.0") as caught:
        check_isolation(model)
    assert caught.value.reason == "isolation_unknown"
    with torch.no_grad():
        model.lm_head.weight.fill_(np.nan)
    with pytest.raises(PolicyError, match="its gradients are nan"):
        check_isolation(model)
    with pytest.raises(PolicyError, match="its weights are not here as a whole"):
        check_isolation(build("llama", "sdpa").to("meta"))


def test_the_check_leaves_no_trace() -> None:
    model = build("llama", "sdpa", attention_dropout=0.5).train()
    before, drawn = parameters(model), torch.get_rng_state()
    check_isolation(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(values.grad is None for values in model.parameters())
    assert all(torch.equal(values, before[key]) for key, values in parameters(model).items())
    assert not model.get_input_embeddings()._forward_hooks
