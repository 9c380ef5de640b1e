"""Where a prompt ends among the tokens, worked out by hand for each value of the policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, Example, LossmaskError, ParityError, Policy, TokenizerError
from lossmask.offsets import OffsetFinder
from lossmask.placing import Misfit
from lossmask.turn_tokens import Boundary
from tests import small_tokenizers
from tests.parity import check
from tests.scenarios import SCENARIOS, Message, assistant, user
from tests.small_tokenizers import EOS, byte_level, clip_like, sentencepiece, unigram, wordpiece

GLUED = (
    "{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
)
SPACED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LINES = SPACED.replace(": ", ":\n\n")
BOT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    boundary: Boundary,
    *messages: Message,
    template: str = GLUED,
    stop_tokens: tuple[str, ...] = (),
) -> list[Example]:
    policy = Policy(boundary=boundary)
    encoder = Encoder(tokenizer, policy, chat_template=template, stop_tokens=stop_tokens)
    return encoder.encode(list(messages))


def split(
    tokenizer: PreTrainedTokenizerBase, boundary: Boundary, asked: str, answered: str
) -> tuple[list[str], list[str]]:
    """Return the tokens before the loss and those in it; nothing may follow."""
    [example] = encode(tokenizer, boundary, user(asked), assistant(answered))
    names = tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
    [span] = example.spans
    assert example.loss_mask.tolist() == [k >= span.token_start for k in range(len(names))]
    assert example.supervised_text == [example.text[span.start :]]
    return names[: span.token_start], names[span.token_start :]


class TestATokenAcrossTheBorder:
    tokenizer = byte_level("? b")

    def test_inference_has_the_ids_of_the_prompt_alone(self) -> None:
        assert split(self.tokenizer, "inference", "a?", "bc") == (["a", "?"], ["b", "c", EOS])

    def test_include_trains_it(self) -> None:
        assert split(self.tokenizer, "include", "a?", "bc") == (["a"], ["?b", "c", EOS])

    def test_exclude_does_not(self) -> None:
        assert split(self.tokenizer, "exclude", "a?", "bc") == (["a", "?b"], ["c", EOS])

    def test_error_names_message_and_token(self) -> None:
        with pytest.raises(ParityError, match=r"message 1: the token '\?b' \(id 256\) .* spans"):
            encode(self.tokenizer, "error", user("a?"), assistant("bc"))

    @pytest.mark.parametrize(
        ("boundary", "text"), [("inference", "bc"), ("include", "?bc"), ("exclude", "c")]
    )
    def test_the_span_is_the_text_in_the_loss(self, boundary: Boundary, text: str) -> None:
        [example] = encode(self.tokenizer, boundary, user("a?"), assistant("bc"))
        assert example.supervised_text == [text + EOS]
        [finding] = example.findings
        assert (finding.kind, finding.message_index) == ("boundary_straddle", 1)
        assert "the token '?b' (id 256) of the whole text spans the end of" in finding.detail
        assert ("apart" in finding.detail) == (boundary == "inference")
        assert (f'boundary="{boundary}"' in finding.detail) == (boundary != "inference")

    @pytest.mark.parametrize("boundary", ["inference", "include", "exclude", "error"])
    def test_none_there_changes_nothing(self, boundary: Boundary) -> None:
        [example] = encode(self.tokenizer, boundary, user("a!"), assistant("bc"))
        assert not example.findings
        assert split(self.tokenizer, boundary, "a!", "bc") == (["a", "!"], ["b", "c", EOS])


def test_a_tokenizer_trained_to_merge_a_question_mark_with_the_lines_behind_it() -> None:
    tokenizer = small_tokenizers.trained_to_merge("Why?\n\nSo?\n\n" * 50)
    assert split(tokenizer, "inference", "Why?", "\n\nSo") == (
        ["Why", "?"],
        ["Ċ", "Ċ", "So", EOS],
    )
    assert split(tokenizer, "include", "Why?", "\n\nSo") == (["Why"], ["?ĊĊ", "So", EOS])
    assert split(tokenizer, "exclude", "Why?", "\n\nSo") == (["Why", "?ĊĊ"], ["So", EOS])


@pytest.mark.parametrize("boundary", ["include", "exclude"])
def test_a_prompt_that_is_tokenized_differently_before_text_keeps_the_whole_texts_ids(
    boundary: Boundary,
) -> None:
    gpt2 = byte_level("Ċ Ċ", use_regex=True)
    assert split(gpt2, "inference", "a\n\n", "b") == (["a", "ĊĊ"], ["b", EOS])
    assert split(gpt2, boundary, "a\n\n", "b") == (["a", "Ċ", "Ċ"], ["b", EOS])
    other = byte_level("ĉ Ċ", "Ġ ĉ", use_regex=True)  # as many tokens, but others
    assert split(other, "inference", "a \t\n", "b") == (["a", "Ġ", "ĉĊ"], ["b", EOS])
    assert split(other, boundary, "a \t\n", "b") == (["a", "Ġĉ", "Ċ"], ["b", EOS])
    [example] = encode(gpt2, boundary, user("a\n\n"), assistant("b"))
    [finding] = example.findings
    assert finding.kind == "boundary_straddle"
    assert "tokenized differently once the completion follows it" in finding.detail


def test_a_prompt_that_is_tokenized_differently_before_text_is_an_error_too() -> None:
    gpt2 = byte_level("Ċ Ċ", use_regex=True)
    with pytest.raises(ParityError, match="message 1: the end of the prompt") as raised:
        encode(gpt2, "error", user("a\n\n"), assistant("b"))
    assert raised.value.reason == "boundary_straddle"


class TestACharacterIsTrainedWholeOrNotAtAll:
    def test_where_the_token_across_the_border_begins_it(self) -> None:
        tokenizer = byte_level("Ġ ð", "Ġð Ł")
        assert split(tokenizer, "inference", "a ", "🙂b") == (
            ["a", "Ġ"],
            ["ð", "Ł", "Ļ", "Ĥ", "b", EOS],
        )
        assert split(tokenizer, "include", "a ", "🙂b") == (["a"], ["ĠðŁ", "Ļ", "Ĥ", "b", EOS])
        assert split(tokenizer, "exclude", "a ", "🙂b") == (["a", "ĠðŁ", "Ļ", "Ĥ"], ["b", EOS])

    def test_where_the_token_across_the_border_ends_it(self) -> None:
        tokenizer = byte_level("Ĥ b")
        emoji = ["ð", "Ł", "Ļ"]
        assert split(tokenizer, "inference", "a🙂", "bc") == (["a", *emoji, "Ĥ"], ["b", "c", EOS])
        assert split(tokenizer, "include", "a🙂", "bc") == (["a"], [*emoji, "Ĥb", "c", EOS])
        assert split(tokenizer, "exclude", "a🙂", "bc") == (["a", *emoji, "Ĥb"], ["c", EOS])


class TestAControlTokenThatSwallowsTheSpaceBehindIt:
    """As those of Phi-3 do: the prompt ends in ``<|assistant|>`` alone, without its newline."""

    tokenizer = sentencepiece(
        "i n",
        added=[
            AddedToken(f"<|{role}|>", rstrip=True, normalized=False, special=True)
            for role in ("user", "assistant")
        ],
    )
    header = ("<|user|>", "h", EOS, "<|assistant|>")

    @pytest.mark.parametrize(
        ("boundary", "in_loss", "text"),
        [
            ("inference", ["▁", "▁", "in", EOS], "  in<|end|>"),
            ("include", ["<|assistant|>", "in", EOS], "<|assistant|>\n  in<|end|>"),
            ("exclude", ["in", EOS], "in<|end|>"),
        ],
    )
    def test_space_that_begins_the_answer(
        self, boundary: Boundary, in_loss: list[str], text: str
    ) -> None:
        [example] = encode(self.tokenizer, boundary, user("h"), assistant("  in"), template=BOT)
        names = self.tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
        answer = [name for name in in_loss if name != "<|assistant|>"]
        assert names == [*self.header, *answer]
        assert names[len(names) - len(in_loss) :] == in_loss
        out = len(names) - len(in_loss)
        assert example.loss_mask.tolist() == [False] * out + [True] * len(in_loss)
        assert example.supervised_text == [text]
        assert [finding.kind for finding in example.findings] == ["boundary_straddle"]

    def test_the_prompt_alone_ends_in_the_control_token(self) -> None:
        alone = self.tokenizer("<|user|>\nh<|end|><|assistant|>\n", add_special_tokens=False)
        assert tuple(self.tokenizer.convert_ids_to_tokens(alone["input_ids"])) == self.header

    @pytest.mark.parametrize("boundary", ["inference", "include", "exclude", "error"])
    def test_without_such_space_all_values_agree(self, boundary: Boundary) -> None:
        [example] = encode(self.tokenizer, boundary, user("h"), assistant("in"), template=BOT)
        names = self.tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
        assert names == [*self.header, "in", EOS]
        assert example.loss_mask.tolist() == [False] * 4 + [True] * 2
        assert not example.findings

    def test_error_names_the_control_token(self) -> None:
        with pytest.raises(ParityError, match=r"the token '<\|assistant\|>\\n  ' "):
            encode(self.tokenizer, "error", user("h"), assistant("  in"), template=BOT)


class TestTurnsThatShareAnExample:
    tokenizer = byte_level("? b")
    messages = (user("a?"), assistant("b"), user("c!"), assistant("d"))

    def test_inference_gives_the_turn_with_the_straddle_its_own(self) -> None:
        last, first = encode(self.tokenizer, "inference", *self.messages)
        assert self.names(last) == ["a", "?b", EOS, "c", "!", "d", EOS]
        assert last.loss_mask.tolist() == [False] * 5 + [True] * 2
        assert self.names(first) == ["a", "?", "b", EOS]
        assert first.loss_mask.tolist() == [False] * 2 + [True] * 2

    @pytest.mark.parametrize(("boundary", "first"), [("include", 1), ("exclude", 2)])
    def test_the_whole_texts_ids_hold_both(self, boundary: Boundary, first: int) -> None:
        [example] = encode(self.tokenizer, boundary, *self.messages)
        assert self.names(example) == ["a", "?b", EOS, "c", "!", "d", EOS]
        assert np.flatnonzero(example.loss_mask).tolist() == [*range(first, 3), 5, 6]
        assert [span.message_index for span in example.spans] == [1, 3]

    @pytest.mark.parametrize("boundary", ["include", "exclude"])
    def test_a_turn_whose_end_merges_with_the_next_keeps_its_own(self, boundary: Boundary) -> None:
        bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
        messages = (user("a"), assistant("c?"), assistant("bd"))
        last, first = encode(self.tokenizer, boundary, *messages, template=bare)
        assert self.names(last) == ["a", "c", "?b", "d"]
        assert self.names(first) == ["a", "c", "?"]
        assert first.loss_mask.tolist() == [False, True, True]
        in_loss = [False, False, boundary == "include", True]
        assert last.loss_mask.tolist() == in_loss

    def names(self, example: Example) -> list[str]:
        names: list[str] = self.tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
        return names


BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_completion_inside_the_token_that_is_out_of_the_loss_is_refused() -> None:
    with pytest.raises(ParityError, match=r"nothing is left to train: .* 'b'") as raised:
        encode(byte_level("? b"), "exclude", user("a?"), assistant("b"), template=BARE)
    assert raised.value.reason == "nothing_generated"


def test_a_completion_that_the_tokenizer_drops_is_refused() -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% if not loop.last %} {% endif %}{% endfor %}"
    )
    with pytest.raises(LossmaskError) as raised:
        encode(unigram(), "inference", user("a"), assistant("\n"), template=template)
    assert raised.value.reason == "nothing_generated"
    assert "dropped by the tokenizer" in str(raised.value)


def test_a_prompt_that_the_tokenizer_drops_is_refused() -> None:
    with pytest.raises(ParityError, match=r"makes no token of the prompt '\\n'") as raised:
        encode(unigram(), "inference", user("\n"), assistant("b"), template=BARE)
    assert raised.value.reason == "no_prompt"


def test_an_answer_that_goes_on_with_a_word_that_has_ended_is_refused() -> None:
    with pytest.raises(ParityError, match="message 1: the prompt ends inside a token") as raised:
        encode(clip_like(), "inference", user("a"), assistant("b"))
    assert raised.value.reason == "boundary_inside_token"
    assert split(clip_like("a b</w>"), "include", "a", "b") == ([], ["ab</w>", EOS])


def test_stop_text_that_merges_with_what_follows_is_refused() -> None:
    template = BARE.replace("{{ m.content }}", "{{ m.content }}!x")
    with pytest.raises(ParityError, match=r"text '!', but its last token .* \(id 256\)") as raised:
        encode(
            byte_level("! x"),
            "inference",
            *(user("a"), assistant("b"), user("c")),
            template=template,
            stop_tokens=("!",),
        )
    assert raised.value.reason == "stop_not_a_token"


TOKENIZERS = {
    "byte level": byte_level("Ġ A", "? Ċ", "Ġ ð"),
    "split as GPT-2": byte_level("Ċ Ċ", "Ġ A", "A 1", use_regex=True, trim_offsets=True),
    "composing": byte_level("Ġ A", ": Ġ", normalizer=normalizers.NFC()),
    "sentencepiece": sentencepiece("▁ ▁", "▁ A", "? A"),
    "a dummy space behind control tokens": sentencepiece("▁ A", prepend_scheme="always"),
    "unigram": unigram("▁assistant", "▁A", "▁hello"),
    "wordpiece": wordpiece("assistant", "hello", "##ello"),
    "clip": clip_like("h i</w>", "a 1</w>"),
}


BORDERS = [
    *("many-turns", "reasoning-inline", "tools-string", "consecutive-assistants", "empty-answer"),
    *("leading-space", "trailing-space", "emoji-ends", "rare-cjk", "decomposed-accents"),
]


@pytest.mark.parametrize("boundary", ["inference", "include", "exclude"])
@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_every_border_is_what_inference_would_have_or_reported(
    name: str, boundary: Boundary
) -> None:
    template = LINES if "GPT-2" in name else SPACED
    encoder = Encoder(TOKENIZERS[name], Policy(boundary=boundary), chat_template=template)
    cases = {s.name: check(encoder, s.messages, s.tools) for s in SCENARIOS if s.name in BORDERS}
    assert not {key: case.detail for key, case in cases.items() if case.status == "wrong"}
    found = Counter(kind for case in cases.values() for kind in case.findings)
    drops_space = name in ("unigram", "wordpiece", "clip")
    assert (found["boundary_straddle"] > 2) == (not drops_space)
    refused = {case.detail.partition(":")[0] for case in cases.values() if case.status == "refused"}
    assert not refused & {"boundary_inside_token", "unusable_offsets", "boundary_straddle"}


def test_text_that_becomes_the_unknown_token_is_found() -> None:
    tokenizer = wordpiece("yes")
    [known] = encode(tokenizer, "inference", user("yes"), assistant("yes"), template=SPACED)
    assert "unknown_token" not in {finding.kind for finding in known.findings}
    [example] = encode(tokenizer, "inference", user("yes"), assistant("yes 漢"), template=SPACED)
    [finding] = [finding for finding in example.findings if finding.kind == "unknown_token"]
    assert finding.message_index == 1
    assert finding.detail.startswith("the tokenizer has no token for '漢': the model learns")
    assert tokenizer.unk_token_id in example.input_ids[example.loss_mask]
    [typed] = encode(tokenizer, "inference", user("漢"), assistant("yes"), template=SPACED)
    assert "unknown_token" not in {finding.kind for finding in typed.findings}


def test_a_text_that_the_tokens_do_not_spell_is_refused_with_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = byte_level()
    encoder = Encoder(tokenizer, chat_template=SPACED, proof="off")
    find = OffsetFinder.find

    def misfit(self: OffsetFinder, text: str, *arguments: Any, **options: Any) -> Any:
        return Misfit(0, 0) if "A3" in text else find(self, text, *arguments, **options)

    monkeypatch.setattr(OffsetFinder, "find", misfit)
    with pytest.raises(TokenizerError, match=r"^message 3: cannot tell which characters"):
        encoder.encode([user("Q0"), assistant("A1"), user("Q2"), assistant("A3")])
