"""Ids are those of ``tokenizer(text)``; the loss is on the tokens of the ranges."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Example, InputError, ParityError
from lossmask.embedded import DEMO_MODEL
from lossmask.markers import ranges
from lossmask.text_rows import encode_text
from lossmask.tokenizing import TextTokenizer, Tokens
from lossmask.turn_tokens import Boundary
from tests import small_tokenizers

HUMAN, ASSISTANT = "\n\n### Human:", "\n\n### Assistant:"
BOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture(scope="module")
def surrounding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that puts bos before text and eos behind it."""
    around = copy.deepcopy(tokenizer)
    around.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A <|im_end|>", special_tokens=[(BOS, 0), ("<|im_end|>", 2)]
    )
    return around


@pytest.fixture(scope="module")
def bloom_like() -> PreTrainedTokenizerBase:
    return small_tokenizers.trained_to_merge(
        "Is it?\n\n### Human: Really?\n\n### Assistant: Yes\n\n" * 9 + "Why?\n\n" * 30
    )


def encode(
    text: str,
    weighted: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    boundary: Boundary = "inference",
) -> Example:
    return encode_text(text, weighted, TextTokenizer(tokenizer), boundary=boundary)


def supervised(example: Example) -> list[str]:
    """Return the text of each token that is in the loss."""
    places = example.offsets[example.loss_mask].tolist()
    return [example.text[start:end] for start, end in places]


def kinds(example: Example) -> list[tuple[str, int]]:
    return [(finding.kind, finding.message_index) for finding in example.findings]


def test_ids_are_the_tokenizers_and_the_ranges_are_in_the_loss(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "A b c<|im_end|> d"
    example = encode(text, [{"start": 3, "end": 15, "weight": 0.5}], tokenizer)
    assert example.input_ids.tolist() == tokenizer(text)["input_ids"]
    assert supervised(example) == [" c", "<|im_end|>"]
    assert example.loss_weights.tolist() == [0, 0, 0.5, 0.5, 0]
    assert example.message_index.tolist() == [-1, -1, 0, 0, -1]
    [span] = example.spans
    assert (span.start, span.end, span.token_start, span.token_end) == (3, 15, 2, 4)
    assert span.stop == "<|im_end|>"
    assert example.supervised_text == [" c<|im_end|>"]
    assert example.findings == ()


def test_a_marker_that_the_tokenizer_merges_with_the_text_before_it_is_found(
    bloom_like: PreTrainedTokenizerBase,
) -> None:
    text = "### Human: Is it?\n\n### Assistant: Yes<|end|>"
    marker = bloom_like(ASSISTANT, add_special_tokens=False)["input_ids"]
    ids = bloom_like(text)["input_ids"]
    assert "?\n\n" in [bloom_like.decode([token]) for token in ids]
    assert not any(ids[k : k + len(marker)] == marker for k in range(len(ids)))  # TRL saw nothing
    example = encode(text, ranges(text, ASSISTANT), bloom_like)
    assert example.input_ids.tolist() == ids
    assert example.supervised_text == [" Yes<|end|>"]
    assert bloom_like.decode(example.labels[example.loss_mask].tolist()) == " Yes<|end|>"
    assert example.findings == ()


def test_a_token_across_the_end_of_a_response_counts_by_what_is_visible(
    bloom_like: PreTrainedTokenizerBase,
) -> None:
    text = "\n\n### Human: Go\n\n### Assistant: Why?\n\n### Human: So\n\n### Assistant: Yes"
    example = encode(text, ranges(text, ASSISTANT, HUMAN), bloom_like)
    assert example.input_ids.tolist() == bloom_like(text)["input_ids"]
    assert example.supervised_text == [" Why?\n\n", " Yes"]
    assert kinds(example) == [("no_stop_token", 0), ("no_stop_token", 1)]


@pytest.mark.parametrize(
    ("boundary", "trained"),
    [("inference", ["\n", "b"]), ("include", [":\n", "b"]), ("exclude", ["b"])],
)
def test_a_token_across_the_start_of_a_range(boundary: Boundary, trained: list[str]) -> None:
    tokenizer = small_tokenizers.byte_level(": Ċ")
    example = encode("a:\nb", [{"start": 2, "end": 4}], tokenizer, boundary)
    joint = tokenizer("a:\nb")["input_ids"]
    prompt = tokenizer("a:")["input_ids"]
    assert len(joint) == 3
    assert (example.input_ids.tolist() == joint) is (boundary != "inference")
    if boundary == "inference":
        assert example.input_ids[: len(prompt)].tolist() == prompt
    assert supervised(example) == trained
    assert example.supervised_text == ["".join(trained)]
    assert kinds(example) == [("boundary_straddle", 0), ("no_stop_token", 0)]
    said = "tokenized apart" if boundary == "inference" else f'boundary="{boundary}"'
    assert said in example.findings[0].detail


def test_boundary_error_rejects_the_row() -> None:
    tokenizer = small_tokenizers.byte_level(": Ċ")
    with pytest.raises(ParityError, match=re.escape('boundary="error"')) as caught:
        encode("a:\nb", [{"start": 2, "end": 4}], tokenizer, "error")
    assert (caught.value.reason, caught.value.message_index) == ("boundary_straddle", 0)
    assert supervised(encode("a:\nb", [{"start": 3, "end": 4}], tokenizer, "error")) == ["b"]


def test_the_end_of_the_prompt_is_tokenized_as_alone_even_where_no_token_spans_it() -> None:
    tokenizer = small_tokenizers.byte_level("Ċ Ċ", use_regex=True)
    text = "a\n\nb"
    assert len(tokenizer(text)["input_ids"]) == 4  # "\n" "\n" before a word
    example = encode(text, [{"start": 3, "end": 4}], tokenizer)
    assert example.input_ids[:2].tolist() == tokenizer("a\n\n")["input_ids"]
    assert supervised(example) == ["b"]
    assert kinds(example)[0] == ("boundary_straddle", 0)


def test_other_tokens_for_the_same_prompt_are_noticed_though_they_end_where_it_ends() -> None:
    tokenizer = small_tokenizers.byte_level("Ġ Ġ", "ĠĠ Ġ", use_regex=True)
    text = "a    b"
    prompt, joint = tokenizer("a    ")["input_ids"], tokenizer(text)["input_ids"]
    assert len(prompt) == 3
    assert prompt != joint[:3]
    example = encode(text, [{"start": 5, "end": 6}], tokenizer)
    assert example.input_ids[:3].tolist() == prompt
    assert kinds(example)[0] == ("boundary_straddle", 0)


def test_the_same_tokens_for_more_than_the_prompt_are_noticed() -> None:
    tokenizer = small_tokenizers.wordpiece()
    assert tokenizer("∂a b")["input_ids"][:1] == tokenizer("∂")["input_ids"]  # both unknown
    example = encode("∂a b", [{"start": 1, "end": 4}], tokenizer, "exclude")
    assert kinds(example)[0] == ("boundary_straddle", 0)
    assert supervised(example) == ["b"]


def test_each_range_is_split_from_what_precedes_it() -> None:
    tokenizer = small_tokenizers.byte_level(": Ċ")
    text = "a:\nb c:d e:\nf"
    weighted = [{"start": 2, "end": 4}, {"start": 7, "end": 8}, {"start": 11, "end": 13}]
    example = encode(text, weighted, tokenizer)
    pieces = [tokenizer.decode([token]) for token in example.input_ids.tolist()]
    assert pieces == list("a:\nb c:d e:\nf")
    assert example.supervised_text == ["\nb", "d", "\nf"]
    assert [each for each in kinds(example) if each[0] == "boundary_straddle"] == [
        ("boundary_straddle", 0),
        ("boundary_straddle", 2),
    ]


def test_ranges_side_by_side_are_one_answer_and_not_split() -> None:
    tokenizer = small_tokenizers.byte_level("a b")
    weighted: list[dict[str, Any]] = [
        {"start": 1, "end": 2, "weight": 1},
        {"start": 2, "end": 3, "weight": 0.25},
    ]
    example = encode("xab", weighted, tokenizer)
    assert example.input_ids.tolist() == tokenizer("xab")["input_ids"]
    assert example.loss_weights.tolist() == [0, 1]
    assert [span.message_index for span in example.spans] == [0]
    assert example.supervised_text == ["ab"]
    spelled = encode("xab", weighted, small_tokenizers.byte_level())
    assert spelled.loss_weights.tolist() == [0, 1, 0.25]
    assert spelled.supervised_text == ["a", "b"]


def test_a_token_of_two_ranges_has_the_weight_of_its_first_visible_character() -> None:
    weighted: list[dict[str, Any]] = [
        {"start": 0, "end": 2, "weight": 1},
        {"start": 2, "end": 3, "weight": 0.25},
    ]
    example = encode("a b", weighted, small_tokenizers.byte_level("Ġ b"))
    assert example.loss_weights.tolist() == [1, 0.25]
    example = encode("a  ", weighted, small_tokenizers.byte_level("Ġ Ġ"))
    assert example.loss_weights.tolist() == [1, 1]


@pytest.mark.parametrize(("boundary", "trained"), [("include", "a🙂b"), ("exclude", "b")])
def test_a_character_across_a_border_is_in_the_loss_whole_or_not_at_all(
    boundary: Boundary, trained: str
) -> None:
    tokenizer = small_tokenizers.byte_level("a ð")  # the first byte of an emoji goes with the a
    example = encode("xa🙂b", [{"start": 2, "end": 4}], tokenizer, boundary)
    assert example.supervised_text == [trained]
    assert example.loss_mask.tolist() == [False, *[boundary == "include"] * 4, True]


class EndsInNothing(TextTokenizer):
    """A tokenizer that ends each text with a token that spells nothing."""

    def encode(self, texts: Sequence[str], origins: Any = None) -> list[Tokens]:
        return [
            Tokens(np.append(tokens.ids, 0), np.append(tokens.offsets, [[len(t)] * 2], axis=0))
            for t, tokens in zip(texts, super().encode(texts), strict=True)
        ]


@pytest.mark.parametrize(("end", "in_loss"), [(2, True), (1, False)])
def test_a_token_that_spells_nothing_goes_with_what_it_ends(end: int, in_loss: bool) -> None:
    tokenizer = EndsInNothing(small_tokenizers.byte_level())
    example = encode_text("ab", [{"start": 0, "end": end}], tokenizer)
    assert example.loss_mask.tolist() == [True, end == 2, in_loss]


def test_the_special_tokens_that_the_tokenizer_adds_are_kept(
    surrounding: PreTrainedTokenizerBase,
) -> None:
    text = "Q: ok? A: yes"
    example = encode(text, ranges(text, "A:"), surrounding)
    assert example.input_ids.tolist() == surrounding(text)["input_ids"]
    assert example.input_ids[0] == 0
    assert example.labels[-1] == 2
    assert example.offsets[0].tolist() == [0, 0]
    assert example.offsets[-1].tolist() == [len(text), len(text)]
    assert example.supervised_text == [" yes"]
    assert example.spans[0].token_end == len(example)
    assert example.spans[0].stop == "<|im_end|>"
    assert example.findings == ()


def test_the_eos_that_the_tokenizer_adds_belongs_to_no_range_that_ends_before(
    surrounding: PreTrainedTokenizerBase,
) -> None:
    example = encode("Q: ok? A: yes. B", [{"start": 9, "end": 13}], surrounding)
    assert example.labels[-1] == -100
    assert example.spans[0].stop is None


def test_special_tokens_that_the_text_already_has_are_reported(
    surrounding: PreTrainedTokenizerBase,
) -> None:
    text = f"{BOS}Q: ok? A: yes<|im_end|>"
    example = encode(text, ranges(text, "A:"), surrounding)
    assert example.input_ids.tolist() == surrounding(text)["input_ids"]
    assert [kind for kind, _ in kinds(example)] == ["special_token_doubled"] * 2
    assert "'<|endoftext|>'" in example.findings[0].detail
    assert "'<|im_end|>'" in example.findings[1].detail


def test_the_whole_text_may_be_in_the_loss(surrounding: PreTrainedTokenizerBase) -> None:
    example = encode("a b", [{"start": 0, "end": 3}], surrounding)
    assert example.loss_mask.tolist() == [False, *[True] * (len(example) - 1)]


def test_a_range_of_weight_0_names_its_tokens_but_has_no_span(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    weighted: list[dict[str, Any]] = [
        {"start": 0, "end": 2, "weight": 0},
        {"start": 4, "end": 6, "weight": 2.0},
    ]
    example = encode("ab c d", weighted, tokenizer)
    assert set(example.message_index.tolist()) == {-1, 0, 1}
    assert [span.message_index for span in example.spans] == [1]
    assert example.loss_weights.max() == 2


def test_the_tokens_of_one_character_are_weighted_alike(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "a: 🙂 b"
    example = encode(text, [{"start": 3, "end": 4}], tokenizer)
    mine = [tuple(place) == (3, 4) for place in example.offsets.tolist()]
    assert sum(mine) > 1
    assert example.loss_mask.tolist() == mine


def test_sentencepiece_puts_no_dummy_space_into_the_answer() -> None:
    tokenizer = small_tokenizers.sentencepiece("] h", "i ]")
    example = encode("[hi]hi", [{"start": 4, "end": 6}], tokenizer)
    names = tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
    assert names == ["▁", "[", "h", "i]", "h", "i"]
    assert supervised(example) == ["h", "i"]


def test_white_space_that_the_tokenizer_drops_is_no_part_of_a_span() -> None:
    tokenizer = small_tokenizers.wordpiece("yes", "human")
    text = "Human : yes "
    example = encode(text, [{"start": 7, "end": 12}], tokenizer)
    assert example.input_ids.tolist() == tokenizer(text)["input_ids"]
    assert example.supervised_text == ["yes"]


@pytest.mark.parametrize("boundary", ["include", "exclude"])
def test_nothing_left_of_a_range_is_an_error(boundary: Boundary) -> None:
    with pytest.raises(ParityError, match="nothing is left to train of range 0, ' '") as caught:
        encode("a ", [{"start": 1, "end": 2}], small_tokenizers.wordpiece(), boundary)
    assert caught.value.reason == "nothing_generated"
    with pytest.raises(ParityError, match="nothing is left to train of range 0, ' '"):
        encode("  ", [{"start": 0, "end": 1}], small_tokenizers.wordpiece(), boundary)


@pytest.mark.parametrize(
    ("weighted", "named"),
    [
        ([{"start": 0, "end": 5}], "range 0 goes from 0 to 5; expected whole numbers"),
        ([{"start": 2, "end": 1}], "range 0 goes from 2 to 1"),
        ([{"start": 0, "end": 2}, {"start": 1, "end": 3}], "range 1 goes from 1 to 3"),
        ([{"start": -1, "end": 2}], "range 0 goes from -1 to 2"),
        ([{"start": 0.0, "end": 2}], "range 0 goes from 0.0 to 2"),
        ([{"end": 2}], "range 0 goes from None to 2"),
        ([{"start": 0, "end": 2, "weight": float("nan")}], "range 0 has the weight nan"),
        ([{"start": 0, "end": 2, "weight": True}], "range 0 has the weight True"),
    ],
)
def test_ranges_that_do_not_fit_are_errors(
    weighted: list[dict[str, Any]], named: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        encode("abcd", weighted, tokenizer)
    assert caught.value.reason == "bad_ranges"


@pytest.mark.parametrize(
    "weighted", [[], [{"start": 1, "end": 1}], [{"start": 0, "end": 2, "weight": 0}]]
)
def test_no_character_in_the_loss_is_an_error(
    weighted: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="no character of the text is in the loss") as caught:
        encode("abcd", weighted, tokenizer)
    assert caught.value.reason == "nothing_to_train"


ALPHABET = st.text("ab:\n ?é🙂", min_size=1, max_size=12)
TOKENIZERS = [
    small_tokenizers.byte_level(": Ċ", "? Ċ", "?Ċ Ċ", "a b", "Ġ a", "Ġa b"),
    small_tokenizers.byte_level(": Ċ", "Ċ Ċ", "Ġ Ġ", use_regex=True),
    small_tokenizers.sentencepiece(": ▁", "▁ a", "a b", "b :"),
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(ALPHABET, ALPHABET), min_size=1, max_size=3), st.sampled_from(TOKENIZERS))
def test_what_precedes_an_answer_is_what_inference_would_have(
    turns: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> None:
    text, weighted = "", []
    for prompt, answer in turns:
        text += prompt + answer
        weighted.append({"start": len(text) - len(answer), "end": len(text)})
    try:
        example = encode(text, weighted, tokenizer)
    except ParityError as error:
        assert error.reason in ("boundary_inside_token", "nothing_generated")  # noqa: PT017
        return
    first = example.spans[0].token_start
    prompt_ids = tokenizer(text[: weighted[0]["start"]])["input_ids"]
    assert example.input_ids[:first].tolist() == prompt_ids
    spelled = [text[each["start"] : each["end"]] for each in weighted]
    if not any(kind == "boundary_straddle" for kind, _ in kinds(example)):
        assert example.input_ids.tolist() == tokenizer(text)["input_ids"]
    for trained, answer in zip(example.supervised_text, spelled, strict=True):
        assert trained.startswith(answer) or answer.rstrip().endswith(trained.rstrip())
