"""The tensors of TRL 0.19 wherever those were right, and right tensors where they were not."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import InputError, PolicyError, TokenizerError
from lossmask.compat import DataCollatorForCompletionOnlyLM, DataCollatorWithIgnoredTokens
from lossmask.embedded import DEMO_MODEL
from tests import small_tokenizers

USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
PAD, EOS = 0, 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture(scope="module")
def pad_is_eos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token
    return same


def chat(*turns: str) -> str:
    """Return turns of user and assistant, in turn, as ChatML."""
    headers = (USER, ASSISTANT)
    return "".join(f"{headers[k % 2]}{turn}<|im_end|>\n" for k, turn in enumerate(turns))


def trained(tokenizer: PreTrainedTokenizerBase, labels: torch.Tensor) -> str:
    return str(tokenizer.decode(labels[labels != -100]))


def as_trl_did(
    batch: dict[str, torch.Tensor], response: Sequence[int], instruction: Sequence[int] | None
) -> torch.Tensor:
    """Return the labels that TRL 0.19 documents: markers searched for among the ids.

    Only for rows in which they are found, turns alternate, and pad is no other token.
    """
    labels = batch["input_ids"].clone()
    labels[batch["attention_mask"] == 0] = -100
    for row in labels:
        ids = row.tolist()
        starts, ends = (
            [k for k in range(len(ids)) if marker and ids[k : k + len(marker)] == list(marker)]
            for marker in (instruction, response)
        )
        ends = [k + len(response) for k in ends]
        if instruction is None:
            row[: ends[-1]] = -100
            continue
        if starts[0] > ends[0]:
            starts = [0, *starts]
        row[: ends[0]] = -100
        for start, end in list(zip(starts, ends, strict=False))[1:]:
            row[start:end] = -100
        if len(ends) < len(starts):
            row[starts[-1] :] = -100
    return labels


ROWS = [
    chat("Hi", "Hello"),
    chat("What is it?", "A letter.", "Thanks", "Bye"),
    chat("Hi", "Hello", "and"),
    "<|im_start|>assistant\nI begin<|im_end|>\n" + chat("Hi", "Hello"),
]


@pytest.mark.parametrize("instruction", [None, USER])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_the_tensors_are_those_of_trl(
    tokenizer: PreTrainedTokenizerBase, instruction: str | None, side: str, as_ids: bool
) -> None:
    padding = copy.deepcopy(tokenizer)
    padding.padding_side = side
    ids: list[Any] = [
        None if text is None else padding(text)["input_ids"] for text in (ASSISTANT, instruction)
    ]
    markers: list[Any] = ids if as_ids else [ASSISTANT, instruction]
    collate = DataCollatorForCompletionOnlyLM(*markers, tokenizer=padding, pad_to_multiple_of=8)
    batch = collate([padding(text) for text in ROWS])
    expected = padding.pad(
        [padding(text) for text in ROWS], return_tensors="pt", pad_to_multiple_of=8
    )
    expected["labels"] = as_trl_did(expected, ids[0], ids[1])
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(batch[name], tensor, rtol=0, atol=0)


def test_the_labels_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    collate = DataCollatorForCompletionOnlyLM(ASSISTANT, USER, tokenizer)
    batch = collate([tokenizer(text)["input_ids"] for text in ROWS])
    assert [trained(tokenizer, labels) for labels in batch["labels"]] == [
        "Hello<|im_end|>\n",
        "A letter.<|im_end|>\nBye<|im_end|>\n",
        "Hello<|im_end|>\n",
        "I begin<|im_end|>\nHello<|im_end|>\n",
    ]
    assert batch["attention_mask"].sum(1).tolist() == [len(tokenizer(t)["input_ids"]) for t in ROWS]


def test_a_marker_that_the_tokenizer_merges_with_its_neighbours_is_found() -> None:
    merging = small_tokenizers.trained_to_merge("Is it?\n\n### Assistant: Yes\n\n" * 9)
    merging.pad_token = merging.eos_token
    text = "### Human: Is it?\n\n### Assistant: Yes<|end|>"
    marker = "\n\n### Assistant:"
    ids, marker_ids = merging(text)["input_ids"], merging(marker)["input_ids"]
    assert not any(ids[k : k + len(marker_ids)] == marker_ids for k in range(len(ids)))
    batch = DataCollatorForCompletionOnlyLM(marker, tokenizer=merging)([ids])
    assert trained(merging, batch["labels"][0]) == " Yes<|end|>"


def test_a_marker_at_the_start_of_the_text_and_one_inside_are_the_same() -> None:
    llama = small_tokenizers.sentencepiece("▁ Q", "▁ A")
    llama.pad_token = llama.eos_token
    text = "Q:hi\nA:so\nQ:and\nA: it"
    batch = DataCollatorForCompletionOnlyLM("A:", "Q:", tokenizer=llama)([llama(text)["input_ids"]])
    spelled = [llama.convert_ids_to_tokens(int(k)) for k in batch["labels"][0] if k != -100]
    assert spelled == [*"so\n", "▁", "i", "t"]


@pytest.mark.parametrize(
    ("straddling", "answer"), [("exclude", "b"), ("include", ":\nb"), ("error", None)]
)
def test_a_token_that_is_part_marker_part_response(straddling: Any, answer: str | None) -> None:
    merging = small_tokenizers.byte_level(": Ċ")
    row = merging("Q:a A:\nb")["input_ids"]
    collate = DataCollatorForCompletionOnlyLM("A:", tokenizer=merging, straddling=straddling)
    if answer is None:
        with pytest.raises(TokenizerError, match=re.escape("the token ':\\n' is part marker")):
            collate([row])
    else:
        assert trained(merging, collate([row])["labels"][0]) == answer


def test_the_rest_of_a_character_that_is_left_out_is_left_out() -> None:
    emoji = small_tokenizers.byte_level(": ð")  # the first byte of an emoji goes with the colon
    collate = DataCollatorForCompletionOnlyLM("A:", tokenizer=emoji)
    assert trained(emoji, collate([emoji("A:🙂b")["input_ids"]])["labels"][0]) == "b"


def test_a_token_across_the_next_marker_counts_by_what_is_visible() -> None:
    merging = small_tokenizers.byte_level("? Ċ", "Ċ #")
    collate = DataCollatorForCompletionOnlyLM("A:", "\n#Q:", tokenizer=merging)
    row = merging("\n#Q:x\n#Q:yA:b?\n#Q:z")["input_ids"]
    assert trained(merging, collate([row])["labels"][0]) == "b?\n"
    row = merging("\n#Q:yA:b\n#Q:z")["input_ids"]
    collate = DataCollatorForCompletionOnlyLM("A:", "#Q:", tokenizer=merging)
    assert trained(merging, collate([row])["labels"][0]) == "b"


def test_consecutive_turns_and_several_roles(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "S: be kind U: a T: 42 U: b A: c A: d B: e U: f"
    collate = DataCollatorForCompletionOnlyLM([" A:", " B:"], [" U:", " T:"], tokenizer=tokenizer)
    assert trained(tokenizer, collate([tokenizer(text)])["labels"][0]) == " c d e"


def test_a_typed_control_token_is_no_marker(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(ASSISTANT)["input_ids"]
    typed = [*tokenizer("<|im_")["input_ids"], *tokenizer("start|>assistant\n")["input_ids"]]
    assert tokenizer.decode(typed) == ASSISTANT
    row = [*ids, *tokenizer("so: ")["input_ids"], *typed, *tokenizer("end")["input_ids"]]
    batch = DataCollatorForCompletionOnlyLM(ASSISTANT, tokenizer=tokenizer)([row])
    assert trained(tokenizer, batch["labels"][0]) == f"so: {ASSISTANT}end"


def test_an_added_token_that_is_not_special_is_what_it_spells(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    neox = copy.deepcopy(tokenizer)
    neox.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in (2, 3)])
    batch = DataCollatorForCompletionOnlyLM("  A:", tokenizer=neox)([neox("Q   A:   b")])
    assert trained(neox, batch["labels"][0]) == "   b"


def test_a_collator_can_be_sent_to_another_process(tokenizer: PreTrainedTokenizerBase) -> None:
    collate = DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer)
    row = tokenizer("Q A: b")
    for sent in (pickle.loads(pickle.dumps(collate)), copy.deepcopy(collate)):
        assert sent([row])["labels"].tolist() == collate([row])["labels"].tolist()


def test_a_marker_that_ends_with_an_added_token_that_swallows_white_space(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    phi = copy.deepcopy(tokenizer)
    phi.add_tokens([AddedToken("<|bot|>", rstrip=True, normalized=False, special=True)])
    batch = DataCollatorForCompletionOnlyLM("<|bot|>\n", tokenizer=phi)([phi("a<|bot|>\n b")])
    assert trained(phi, batch["labels"][0]) == "b"


@pytest.mark.parametrize("instruction", [None, USER])
def test_an_absent_marker_is_an_error(
    tokenizer: PreTrainedTokenizerBase, instruction: str | None
) -> None:
    collate = DataCollatorForCompletionOnlyLM(ASSISTANT, instruction, tokenizer=tokenizer)
    named = "assistant\\n' is not in example 1 of the batch, which begins '<|im_start|>user"
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        collate([tokenizer(ROWS[0]), tokenizer(chat("Hi"))])
    assert caught.value.reason == "marker_absent"
    if instruction:
        with pytest.raises(InputError, match="the instruction marker"):
            collate([tokenizer(f"{ASSISTANT}Hi")])


def test_nothing_behind_the_marker_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="nothing follows the response marker") as caught:
        DataCollatorForCompletionOnlyLM(ASSISTANT, tokenizer=tokenizer)([tokenizer(ASSISTANT)])
    assert caught.value.reason == "empty_response"


def test_pad_equal_to_eos_leaves_every_eos_in_the_loss(
    pad_is_eos: PreTrainedTokenizerBase,
) -> None:
    texts = [chat("Hi", "Hello")[:-1], chat("Hi", "Hello", "you", "and you")[:-1]]
    collate = DataCollatorForCompletionOnlyLM(ASSISTANT, USER, tokenizer=pad_is_eos)
    batch = collate([pad_is_eos(text)["input_ids"] for text in texts])
    assert [trained(pad_is_eos, labels) for labels in batch["labels"]] == [
        "Hello<|im_end|>",
        "Hello<|im_end|>\nand you<|im_end|>",
    ]
    assert batch["input_ids"][0, -1] == EOS
    assert batch["labels"][0, -1] == -100


def test_rows_that_are_padded_already_keep_their_shape(
    pad_is_eos: PreTrainedTokenizerBase,
) -> None:
    collate = DataCollatorForCompletionOnlyLM(ASSISTANT, tokenizer=pad_is_eos)
    padded = pad_is_eos(chat("Hi", "Hello")[:-1], padding="max_length", max_length=20)
    batch = collate([padded])
    assert batch["input_ids"][0].tolist() == padded["input_ids"]
    assert trained(pad_is_eos, batch["labels"][0]) == "Hello<|im_end|>"


@pytest.mark.parametrize("ends", [[EOS, EOS], [EOS, PAD]])
def test_ids_that_may_be_padded_are_refused_without_a_mask(
    tokenizer: PreTrainedTokenizerBase, ends: list[int], pad_is_eos: PreTrainedTokenizerBase
) -> None:
    chosen = tokenizer if PAD in ends else pad_is_eos
    collate = DataCollatorForCompletionOnlyLM("A:", tokenizer=chosen)
    row = tokenizer("A: b")["input_ids"]
    with pytest.raises(InputError, match="cannot be told from padding; give the attention_mask"):
        collate([[*row, *ends]])
    with pytest.raises(InputError, match="cannot be told from padding"):
        collate([[*ends[::-1], *row]])
    assert len(collate([{"input_ids": [*row, *ends], "attention_mask": [1] * (len(row) + 2)}])) == 3


def test_padding_free_is_one_row_without_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [tokenizer("Q A: b")["input_ids"], tokenizer("Q A: c d")["input_ids"]]
    padded = DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer)(rows)
    flat = DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer, padding_free=True)(rows)
    sizes = [len(row) for row in rows]
    assert sizes[0] < sizes[1]
    real = padded["attention_mask"].bool()
    expected = {
        "input_ids": torch.tensor([rows[0] + rows[1]]),
        "labels": padded["labels"][real][None],
        "position_ids": torch.tensor([[*range(sizes[0]), *range(sizes[1])]]),
        "cu_seq_lens_q": torch.tensor([[0, sizes[0], sum(sizes)]], dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([[0, sizes[0], sum(sizes)]], dtype=torch.int32),
        "max_length_k": torch.tensor([sizes[1]]),
        "max_length_q": torch.tensor([sizes[1]]),
    }
    assert list(flat) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(flat[name], tensor, rtol=0, atol=0)


def test_padding_free_takes_the_first_label_of_each_row_out() -> None:
    tokenizer = small_tokenizers.byte_level("A b")
    collate = DataCollatorForCompletionOnlyLM(
        "A", tokenizer=tokenizer, padding_free=True, straddling="include"
    )
    row = tokenizer("Abc")["input_ids"]
    assert collate([row, row])["labels"].tolist() == [[-100, row[1], -100, row[1]]]


def test_another_ignore_index_and_numpy(tokenizer: PreTrainedTokenizerBase) -> None:
    collate = DataCollatorForCompletionOnlyLM(
        "A:", None, processing_class=tokenizer, ignore_index=-1, return_tensors="np", mlm=False
    )
    batch = collate([tokenizer("Q A: b"), tokenizer("A: b")])
    assert isinstance(batch["labels"], np.ndarray)
    assert set(batch["labels"][1].tolist()) == {-1, *tokenizer(" b")["input_ids"]}
    assert isinstance(collate.torch_call([tokenizer("A: b")])["labels"], torch.Tensor)
    assert isinstance(collate([tokenizer("A: b")], return_tensors="pt")["labels"], torch.Tensor)


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (("A:",), {}, "expected one tokenizer"),
        (("",), {"tokenizer": ...}, "response_template holds ''"),
        (([],), {"tokenizer": ...}, "response_template is []"),
        (([[]],), {"tokenizer": ...}, "response_template is [[]]"),
        (("A:", "A:"), {"tokenizer": ...}, "'A:' is a response marker and an instruction marker"),
        (("A:",), {"tokenizer": ..., "mlm": True}, "mlm is True"),
        (("A:",), {"tokenizer": ..., "return_tensors": "tf"}, "return_tensors is 'tf'"),
        (("A:",), {"tokenizer": ..., "pading_free": True}, "unknown argument 'pading_free'"),
        (("A:",), {"tokenizer": ..., "straddling": "in"}, "straddling is 'in'; allowed: exclude"),
    ],
)
def test_wrong_arguments_are_errors(
    tokenizer: PreTrainedTokenizerBase, arguments: Any, options: dict[str, Any], named: str
) -> None:
    options = {key: tokenizer if value is ... else value for key, value in options.items()}
    with pytest.raises(PolicyError, match=re.escape(named)):
        DataCollatorForCompletionOnlyLM(*arguments, **options)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "at least one example"),
        ([{"text": "A: b"}], "example 0 of the batch has no 'input_ids'; it has ['text']"),
        ([[]], "input_ids of shape (0,)"),
        ([{"input_ids": [5, 6], "attention_mask": [1]}], "2 input_ids and attention_mask"),
        ([99_999], "input_ids of shape ()"),
    ],
)
def test_wrong_rows_are_errors(
    tokenizer: PreTrainedTokenizerBase, rows: list[Any], named: str
) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer)(rows)


def test_unknown_tokens_are_errors(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TokenizerError, match="the tokenizer has no token 99999"):
        DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer)([[99_999]])
    with pytest.raises(TokenizerError, match="does not know all of the marker '∂:'"):
        DataCollatorForCompletionOnlyLM("∂:", tokenizer=small_tokenizers.unigram())


def test_a_tokenizer_without_pad_token_collates_rows_of_one_length() -> None:
    bare = small_tokenizers.byte_level()
    collate = DataCollatorForCompletionOnlyLM("A", tokenizer=bare)
    assert collate([bare("Ab"), bare("Ac")])["labels"][:, 1].tolist() == bare("bc")["input_ids"]
    with pytest.raises(PolicyError, match="has no pad token"):
        collate([bare("Ab"), bare("Abc")])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("QA"), st.text("ab:\n ?é🙂", max_size=5)), min_size=1))
def test_what_is_trained_is_what_stands_between_the_markers(turns: list[tuple[str, str]]) -> None:
    merging = small_tokenizers.byte_level("? Ċ", "Ċ <", ": a", "Ġ a")
    text = "<Q>x" + "".join(f"<{role}>{content}" for role, content in turns)
    expected = "".join(content for role, content in turns if role == "A")
    collate = DataCollatorForCompletionOnlyLM("<A>", "<Q>", tokenizer=merging)
    if not expected:
        with pytest.raises(InputError):
            collate([merging(text)])
        return
    try:
        labels = collate([merging(text)])["labels"][0]
    except InputError as error:  # white space that is one token with the next marker
        assert error.reason == "empty_response"  # noqa: PT017
        assert not expected.strip()
        return
    assert re.sub("[\n<]", "", trained(merging, labels)) == expected.replace("\n", "")


class TestIgnoredTokens:
    TEXT = "Q: ok? A: yes<|im_end|>\n"

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> DataCollatorWithIgnoredTokens:
        easy = [EOS, *tokenizer("\n")["input_ids"]]
        return DataCollatorWithIgnoredTokens(
            "A:", tokenizer=tokenizer, ignore_token_ids=easy, **options
        )

    @pytest.mark.parametrize(("probability", "answer"), [(0, " yes<|im_end|>\n"), (1, " yes")])
    def test_the_tokens_go_with_the_probability(
        self, tokenizer: PreTrainedTokenizerBase, probability: float, answer: str
    ) -> None:
        collate = self.collator(tokenizer, ignore_tokens_mask_prob=probability)
        assert trained(tokenizer, collate([tokenizer(self.TEXT)])["labels"][0]) == answer

    def test_four_of_five_go_by_default(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = [{**tokenizer(self.TEXT), "row": k} for k in range(500)]
        labels = self.collator(tokenizer)(rows)["labels"]
        kept = int((labels == EOS).sum())
        assert 70 <= kept <= 130
        yes = tokenizer(" yes")["input_ids"]
        assert all(row[row != -100][: len(yes)].tolist() == yes for row in labels)

    def test_the_draw_depends_on_seed_epoch_and_row_alone(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        rows = [{**tokenizer(self.TEXT), "row": k} for k in range(40)]

        def draw(seed: int, epoch: int, rows: list[Any]) -> list[list[int]]:
            collate = self.collator(tokenizer, seed=seed, ignore_tokens_mask_prob=0.5)
            collate.set_epoch(epoch)
            drawn: list[list[int]] = collate(rows)["labels"].tolist()
            return drawn

        first = draw(0, 0, rows)
        assert draw(0, 0, rows) == first
        assert draw(0, 0, rows[::-1]) == first[::-1]
        assert [draw(0, 0, [row])[0] for row in rows] == first
        assert draw(0, 1, rows) != first
        assert draw(1, 0, rows) != first

    def test_without_a_number_the_ids_tell_the_row(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        rows = [tokenizer(f"Q: {k} A: yes<|im_end|>\n")["input_ids"] for k in range(40)]
        collate = self.collator(tokenizer, ignore_tokens_mask_prob=0.5)
        ends = [(collate([row])["labels"][0] == EOS).any().item() for row in rows]
        assert ends == [(collate([row])["labels"][0] == EOS).any().item() for row in rows]
        assert 5 < sum(ends) < 35

    def test_only_responses_are_touched_and_something_has_to_be_left(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        with pytest.raises(InputError, match="all of the response of example 0") as caught:
            self.collator(tokenizer)([tokenizer("Q: A:<|im_end|>")])
        assert caught.value.reason == "nothing_to_train"

    def test_the_probability_is_one(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(PolicyError, match=re.escape("ignore_tokens_mask_prob is 1.5")):
            self.collator(tokenizer, ignore_tokens_mask_prob=1.5)


def test_importing_the_drop_ins_does_not_import_torch() -> None:
    code = "import sys, lossmask.compat; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
