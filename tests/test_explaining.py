"""What is said of a token: where it stands, who wrote it, what it spells."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, InputError
from lossmask.embedded import DEMO_MODEL
from lossmask.explaining import Explained, Explanation, bytes_of_token, explain
from tests.byte_renderers import Bytes
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import assistant, system, user

ROW = {"messages": [system("S"), user("Hi 👍"), assistant("Hello")]}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return loaded


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    template = (
        "{% for m in messages %}\n<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return Encoder(tokenizer, chat_template=template)


def test_a_token_is_told_in_full(encoder: Encoder) -> None:
    [example] = encoder.encode(ROW["messages"])

    [(_, token)] = Explained.of(encoder, ROW).find("Hello")
    start = example.text.index("Hello")
    assert explain(encoder, ROW, token) == Explanation(
        example=1,
        token=token,
        id=432,
        text="Hello",
        start=start,
        end=start + 5,
        spelled=b"Hello",
        message_index=2,
        role="assistant",
        field="content",
        field_start=0,
        part="content",
        is_trained=True,
        weight=1.0,
        rule="train_on",
        reason="it is content of message 2: train_on=all_assistant trains that message",
        template_line=3,
        template_source="{{ m.content }}<|im_end|>",
    )


def test_what_the_template_wrote_is_told_by_its_line(encoder: Encoder) -> None:
    first = explain(encoder, ROW, 0)
    assert (first.text, first.message_index, first.role, first.field) == (
        "<|im_start|>",
        -1,
        None,
        None,
    )
    assert (first.template_line, first.template_source) == (2, "<|im_start|>{{ m.role }}")
    assert (first.spelled, first.part) == (b"<|im_start|>", "scaffold")


def test_tokens_that_share_a_character_spell_its_bytes(encoder: Encoder) -> None:
    explained = Explained.of(encoder, ROW)
    found = [explained.explain(token) for _, token in explained.find("👍")]
    assert len(found) == 4
    assert b"".join(each.spelled or b"" for each in found) == "👍".encode()
    assert {(each.text, each.field, each.field_start) for each in found} == {("👍", "content", 3)}


def test_plain_data_is_json(encoder: Encoder) -> None:
    mapping = explain(encoder, ROW, 0).to_mapping()
    assert mapping["spelled"] == b"<|im_start|>".hex()
    assert list(mapping)[:4] == ["example", "token", "id", "text"]


def test_every_occurrence_is_found_in_every_example(tokenizer: PreTrainedTokenizerBase) -> None:
    source = FIXTURE_TEMPLATES["reasoning kept after the last user turn only"]
    encoder = Encoder(tokenizer, chat_template=source)
    messages = [user("Q"), assistant("A", reasoning_content="R"), user("q"), assistant("A")]
    explained = Explained.of(encoder, {"messages": messages})
    assert [example for example, _ in explained.find("A<")] == [0, 0, 0, 0, 1, 1]
    assert [example for example, _ in explained.find("A<", example=1)] == [1, 1]
    with pytest.raises(InputError, match="'q' does not occur in example 2 as the template"):
        explained.find("q", example=1)


@pytest.mark.parametrize("text", ["nope", ""])
def test_a_text_that_is_not_there_is_an_error(text: str, encoder: Encoder) -> None:
    with pytest.raises(InputError, match=f"'{text}' does not occur in the row's 1 example") as info:
        Explained.of(encoder, ROW).find(text)
    assert info.value.reason == "text_not_found"


def test_a_token_that_is_not_there_is_an_error(encoder: Encoder) -> None:
    [example] = encoder.encode(ROW["messages"])
    n = len(example)
    assert explain(encoder, ROW, -1).token == n - 1
    for token in (n, -n - 1):
        with pytest.raises(InputError, match=f"no token {token}: .* numbered from 0 to {n - 1}"):
            explain(encoder, ROW, token)
    with pytest.raises(InputError, match="there is no example 2: the row became 1"):
        explain(encoder, ROW, 0, example=1)


def test_a_row_that_is_rejected_has_no_tokens(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="the row is rejected, so it has no tokens: no message"):
        explain(encoder, {"messages": [user("Hi")]}, 0)


def test_a_renderer_without_a_template_has_no_lines_but_bytes() -> None:
    encoder = Encoder.from_renderer(Bytes())
    row = {"messages": [user("Hi"), assistant("Yes")]}
    explained = Explained.of(encoder, row)
    [found] = [explained.explain(token) for _, token in explained.find("Y")]
    assert (found.spelled, found.template_line, found.message_index) == (b"Y", None, 1)
    assert bytes_of_token(encoder, found.id) == b"Y"
