"""A model is loaded from where it is, or the error says what is wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lossmask.embedded import DEMO_MODEL
from lossmask.errors import InputError, PreparedDataError
from lossmask.model_loading import check_embeddings, load_model
from tests.tiny_models import VOCAB_SIZE, tiny_model


def test_a_model_is_loaded_in_the_type_asked_for() -> None:
    assert load_model(DEMO_MODEL, "auto").dtype == torch.float32
    assert load_model(str(DEMO_MODEL), "bfloat16").dtype == torch.bfloat16
    model = tiny_model("llama")
    assert load_model(model, "bfloat16") is model


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no model at .*nowhere"):
        load_model(tmp_path / "nowhere", "auto")
    with pytest.raises(InputError, match=r"cannot be loaded: .*Expected a causal language model"):
        load_model(tmp_path, "auto")


def test_the_largest_token_needs_an_embedding() -> None:
    model = tiny_model("llama")
    check_embeddings(model, VOCAB_SIZE - 1, "example 3")
    with pytest.raises(PreparedDataError, match=rf"example 3: token id {VOCAB_SIZE} has no embed"):
        check_embeddings(model, VOCAB_SIZE, "example 3")
