"""Responses are found in the ids of every published tokenizer, whatever it makes of the markers."""

from __future__ import annotations

import re
import unicodedata

import pytest
from transformers import PreTrainedTokenizerBase

from lossmask import TokenizerError
from lossmask.compat.marked_ids import MarkedIds
from lossmask.markers import ranges
from lossmask.text_rows import encode_text
from lossmask.tokenizing import TextTokenizer
from tests import corpus

TEXTS = [
    "### Human: Is it?\n\n### Assistant: Yes, it is.\n\n### Human: Oh?\n\n### Assistant: Café fine",
    "\n\n### Human: a\n\n### Assistant: b 2\n\n### Assistant: \n\nc",
]
MARKERS = [("### Assistant:", "### Human:"), ("\n\n### Assistant:", "\n\n### Human:")]
TORN = {"synth-gemma-like"}  # makes other tokens of the end of a prompt once text follows


def visible(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the letters of a text, as tokenizers that fold case or strip accents leave them."""
    for special in tokenizer.all_special_tokens:
        text = text.replace(str(special), "")
    plain = unicodedata.normalize("NFKD", text).casefold()
    return re.sub(r"[\s\u0300-\u036f]", "", plain)


@pytest.mark.slow
@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.tokenizer_names())
@pytest.mark.parametrize(("response", "instruction"), MARKERS)
@pytest.mark.parametrize("text", TEXTS)
def test_what_stands_between_the_markers_is_in_the_loss(
    name: str, response: str, instruction: str, text: str
) -> None:
    tokenizer = corpus.tokenizer(name)
    found = ranges(text, response, instruction)
    answers = [text[each["start"] : each["end"]] for each in found]
    ids = tokenizer(text)["input_ids"]
    mask = MarkedIds(tokenizer, response, instruction).responses(ids, "the row")
    trained = tokenizer.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
    assert visible(trained, tokenizer) == visible("".join(answers), tokenizer)
    example = encode_text(text, found, TextTokenizer(tokenizer))
    assert [each.strip() for each in example.supervised_text] == [each.strip() for each in answers]
    if name not in TORN:
        assert example.input_ids.tolist() == ids


class Mumbling:
    """A slow tokenizer whose tokens spell nothing known."""

    is_fast = False

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["?" for _ in ids]


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(TokenizerError, match="cannot tell what the tokens of this Mumbling spell"):
        MarkedIds(Mumbling(), "A:")
