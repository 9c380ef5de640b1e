"""A prepared folder names what it was made from; anything else is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lossmask import Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import PreparedDataError
from lossmask.fit import Fit
from lossmask.prepared_source import prepared_source
from lossmask.preparing import EncoderSource, prepare
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import assistant, user


def prepared(tmp_path: Path, source: EncoderSource) -> Path:
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps({"messages": [user("Hi"), assistant("Hello")]}) + "\n")
    return prepare([data], source, tmp_path / "prepared").folder


@pytest.mark.parametrize(
    "source",
    [
        EncoderSource(str(DEMO_MODEL)),
        EncoderSource(
            str(DEMO_MODEL), Policy(stop="last", ignore=("Yes",)), fit=Fit(max_length=99)
        ),
        EncoderSource(str(DEMO_MODEL), chat_template="vicuna", stop_tokens=("Hello",)),
        EncoderSource(str(DEMO_MODEL), chat_template=FIXTURE_TEMPLATES["chatml with tools"]),
    ],
    ids=["defaults", "policy and fit", "style and stop", "template"],
)
def test_what_it_was_made_from_encodes_the_same(tmp_path: Path, source: EncoderSource) -> None:
    folder = prepared(tmp_path, source)
    found = prepared_source(folder)
    assert found.data == [tmp_path / "chats.jsonl"]
    assert found.source.load().fingerprint() == source.load().fingerprint()
    found.check(found.manifest)


def test_template_variables_have_to_be_named_again(tmp_path: Path) -> None:
    template = FIXTURE_TEMPLATES["chatml with tools"]
    variables = (("mood", "calm"),)
    source = EncoderSource(str(DEMO_MODEL), chat_template=template, template_variables=variables)
    folder = prepared(tmp_path, source)
    with pytest.raises(PreparedDataError, match="Name the variables with --template-var") as info:
        prepared_source(folder)
    assert info.value.reason == "settings_differ"
    assert prepared_source(folder, variables).source.template_variables == variables


def test_another_tokenizer_at_the_same_place_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    folder = prepared(tmp_path, EncoderSource(str(tmp_path / "model")))
    config = tmp_path / "model" / "tokenizer_config.json"
    changed = json.loads(config.read_text()) | {"eos_token": "<|im_start|>"}
    config.write_text(json.dumps(changed))
    with pytest.raises(PreparedDataError, match=r"not those of .*model today"):
        prepared_source(folder)


def test_other_counts_are_other_data(tmp_path: Path) -> None:
    found = prepared_source(prepared(tmp_path, EncoderSource(str(DEMO_MODEL))))
    with pytest.raises(PreparedDataError, match=r"holds tokens = \d+, but .* come to 7:"):
        found.check({**found.manifest, "tokens": 7})
