"""A style's headers as tokens, from the tokenizer to the trained model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lossmask import Encoder, PolicyError
from lossmask.added_tokens import grow_embeddings, with_headers
from lossmask.cli import main
from lossmask.embedded import DEMO_MODEL
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.training import LoraSettings, train
from tests.scenarios import assistant, user

HEADERS = ("### Human:", "### Assistant:")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("added")
    data = folder / "data.jsonl"
    rows = [{"messages": [user(f"Q{n}"), assistant("yes")]} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = EncoderSource(str(DEMO_MODEL), chat_template="human_assistant", special_tokens=True)
    prepare([data], source, folder / "out")
    return load_prepared(folder / "out")


def test_headers_become_one_token_each_in_a_copy() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    size = len(tokenizer)
    grown, pieces = with_headers(tokenizer, "human_assistant")
    assert (len(tokenizer), len(grown)) == (size, size + 2)
    assert tuple(pieces) == HEADERS
    for header in HEADERS:
        assert len(grown(header, add_special_tokens=False)["input_ids"]) == 1
        assert tokenizer.decode(pieces[header]) == header
    again, none = with_headers(grown, "human_assistant")
    assert (len(again), none) == (size + 2, {})


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_begins_as_the_mean_of_what_it_replaces(tied: bool) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    size = model.get_input_embeddings().weight.shape[0]
    before = [model.get_input_embeddings().weight.clone(), model.lm_head.weight.clone()]
    grow_embeddings(model, size + 2, {size: [5, 6], size + 1: [7]})
    after = [model.get_input_embeddings().weight, model.lm_head.weight]
    for old, new in zip(before, after, strict=True):
        assert new.shape[0] == size + 2
        assert torch.equal(new[:size], old)
        assert torch.equal(new[size], old[[5, 6]].mean(dim=0))
        assert torch.equal(new[size + 1], old[7])
    assert (after[0].data_ptr() == after[1].data_ptr()) == tied


def test_the_prepared_folder_holds_the_tokenizer_with_them(prepared: PreparedDataset) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(prepared.folder) / "tokenizer")
    assert prepared.tokenizer["path"] == str((Path(prepared.folder) / "tokenizer").resolve())
    added = {tokenizer.decode([int(token)]) for token in prepared.tokenizer["added"]}
    assert added == set(HEADERS)
    item = prepared[0]
    assert tokenizer.decode(item["input_ids"]) == ("### Human: Q0\n### Assistant: yes<|im_end|>\n")
    assert [int(token) in item["input_ids"] for token in prepared.tokenizer["added"]] == [True] * 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)])
def test_training_grows_the_model_and_trains_the_new_rows(
    prepared: PreparedDataset, tmp_path: Path, lora: LoraSettings | None
) -> None:
    train(
        prepared, DEMO_MODEL, tmp_path / "run", lora=lora, max_steps=2, learning_rate=1e-2,
        training_arguments={"use_cpu": True},
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert len(tokenizer(HEADERS[0], add_special_tokens=False)["input_ids"]) == 1
    begun: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    pieces = {int(token): ids for token, ids in prepared.tokenizer["added"].items()}
    grow_embeddings(begun, len(tokenizer), pieces)
    if lora is None:
        trained: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    else:
        base: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        trained = PeftModel.from_pretrained(base, str(tmp_path / "run")).merge_and_unload()
    old = begun.get_input_embeddings().weight.detach()
    new = trained.get_input_embeddings().weight.detach()
    assert old.shape == new.shape
    for token in pieces:
        assert 0 < float((old[token] - new[token]).abs().max()) < 0.1


def test_special_tokens_ask_for_a_style() -> None:
    with pytest.raises(PolicyError, match="'vicunna' is none; did you mean 'vicuna'"):
        Encoder.from_pretrained(DEMO_MODEL, chat_template="vicunna", special_tokens=True)


def test_the_command_says_what_they_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": [user("Q"), assistant("A")]}) + "\n")
    arguments = ["prepare", data, "-t", DEMO_MODEL, "-o", tmp_path / "out"]
    options = ["--template", "human_assistant", "--special-tokens"]
    monkeypatch.setattr(sys, "argv", ["lossmask", *map(str, arguments), *options])
    with pytest.raises(SystemExit) as info:
        main()
    assert not info.value.code
    out = " ".join(capsys.readouterr().out.split())
    assert "special tokens added: ### Human:, ### Assistant:; 2 new rows in the embedding" in out
    assert "an exchange is" in out
