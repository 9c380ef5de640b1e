"""The encoder is built from tokenizers, templates and stop tokens, or says what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lossmask import Encoder, Fit, Policy, TemplateError, TokenizerError
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import generation_stop_ids
from tests.scenarios import assistant, user

MESSAGES = [user("Hi"), assistant("Hello")]


def test_stop_tokens_are_eos_generation_config_and_those_given(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for path in DEMO_MODEL.iterdir():
        if "token" in path.name or path.suffix == ".jinja":
            shutil.copy(path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end_of_text, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>"])
    assert Encoder.from_pretrained(folder).stop_ids == {tokenizer.eos_token_id}
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [tokenizer.eos_token_id, end_of_text]})
    )
    encoder = Encoder.from_pretrained(folder, stop_tokens=["<|im_start|>"])
    assert encoder.stop_ids == {tokenizer.eos_token_id, end_of_text, start}


def test_stop_tokens_that_cannot_be_read_are_an_error_not_missing(tmp_path: Path) -> None:
    assert generation_stop_ids(tmp_path) == []
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"cannot read generation_config.json of"):
        generation_stop_ids(tmp_path)


def test_an_unknown_stop_token_is_named() -> None:
    with pytest.raises(TokenizerError, match="'<\\|nope\\|>' is not a token") as raised:
        Encoder.from_pretrained(DEMO_MODEL, stop_tokens=["<|nope|>"])
    assert raised.value.reason == "unknown_stop"


def test_a_template_may_be_given_as_source_or_as_file(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    path = tmp_path / "template.jinja"
    path.write_text(source)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    texts = {
        Encoder(tokenizer, chat_template=given).encode(MESSAGES)[0].text
        for given in (source, path, str(path))
    }
    assert texts == {"Hi<|im_end|>Hello<|im_end|>"}


def test_a_missing_template_file_is_an_error(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    with pytest.raises(TemplateError, match="cannot read the chat template"):
        Encoder(tokenizer, chat_template=tmp_path / "none.jinja")


def test_a_missing_tokenizer_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such tokenizer folder") as raised:
        Encoder.from_pretrained(tmp_path / "none")
    assert raised.value.reason == "no_such_path"


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot load a tokenizer from"):
        Encoder.from_pretrained(tmp_path)


def test_template_variables_reach_the_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    source = "{% for m in messages %}{{ m.content }}{{ mark }}<|im_end|>{% endfor %}"
    encoder = Encoder(tokenizer, chat_template=source, template_variables={"mark": "!"})
    assert encoder.encode(MESSAGES)[0].supervised_text == ["Hello!<|im_end|>"]
    assert encoder.encode(MESSAGES, mark="?")[0].supervised_text == ["Hello?<|im_end|>"]


def test_the_fingerprint_changes_with_template_policy_stops_and_fit() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    source = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    encoders = [
        Encoder(tokenizer),
        Encoder(tokenizer, Policy(history="last")),
        Encoder(tokenizer, chat_template=source),
        Encoder(tokenizer, chat_template=source + " "),
        Encoder(tokenizer, stop_tokens=["<|endoftext|>"]),
        Encoder(tokenizer, template_variables={"x": 1}),
        Encoder(tokenizer, fit=Fit(max_length=9)),
        Encoder(tokenizer, fit=Fit(max_length=9, truncation="keep_start")),
    ]
    assert len({encoder.fingerprint() for encoder in encoders}) == len(encoders)
    assert Encoder(tokenizer).fingerprint() == encoders[0].fingerprint()
