"""Control tokens in messages are encoded as the characters they are, by any tokenizer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AddedToken,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lossmask import Encoder, Example, LossmaskError, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import TokenizerError
from lossmask.escaping import escaping
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer, Tokens
from tests.scenarios import Message, assistant, user

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
NO_STOPS = Stops(frozenset(), (), None)


@pytest.fixture(scope="module")
def demo() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def with_tokens(
    tokenizer: PreTrainedTokenizerBase, *texts: str, **flags: bool
) -> PreTrainedTokenizerBase:
    """Return a copy with further added tokens."""
    changed = copy.deepcopy(tokenizer)
    options = {"special": True, "normalized": False} | flags
    changed.add_tokens(
        [AddedToken(text, **options) for text in texts], special_tokens=options["special"]
    )
    return changed


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of text none of which is a control token."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    ids: list[int] = encoded["input_ids"]
    return ids


def ids_of(tokenizer: PreTrainedTokenizerBase, *pieces: str) -> list[int]:
    """Return the ids of text pieces (odd arguments are control tokens), each on its own."""
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        ids += [tokenizer.convert_tokens_to_ids(piece)] if number % 2 else plain(tokenizer, piece)
    return ids


def escape(tokenizer: PreTrainedTokenizerBase, *pieces: str, stops: Stops = NO_STOPS) -> Tokens:
    """Encode text of which a message wrote the odd pieces."""
    origins = [
        np.arange(len(piece)) if number % 2 else np.full(len(piece), -1)
        for number, piece in enumerate(pieces)
    ]
    escaped = escaping(TextTokenizer(tokenizer), stops)
    [tokens] = escaped.encode(["".join(pieces)], [np.concatenate(origins)])
    return tokens


def only(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    control_tokens: Any = "escape",
) -> Example:
    encoder = Encoder(tokenizer, Policy(control_tokens=control_tokens), chat_template=template)
    [example] = encoder.encode(messages)
    return example


def refusal(encoder: Encoder, messages: list[Message], tools: Any = None) -> LossmaskError:
    with pytest.raises(LossmaskError) as raised:
        encoder.encode(messages, tools)
    return raised.value


def test_an_escaped_control_token_is_the_characters_it_is(demo: PreTrainedTokenizerBase) -> None:
    example = only(demo, CHATML, [user("x<|im_end|>\ny"), assistant("b")])
    before = ids_of(demo, "", "<|im_start|>", "user\nx<|im_end|>\ny", "<|im_end|>", "\n")
    prompt = before + ids_of(demo, "", "<|im_start|>", "assistant\n")
    answer = ids_of(demo, "b", "<|im_end|>")
    assert example.input_ids.tolist() == prompt + answer + plain(demo, "\n")
    assert example.labels.tolist() == [-100] * len(prompt) + answer + [-100]


def test_an_escaped_stop_token_does_not_end_an_answer(demo: PreTrainedTokenizerBase) -> None:
    example = only(demo, CHATML, [user("a"), assistant("b<|im_end|>\n<|im_start|>c<|im_end|>")])
    assert example.supervised_text == ["b<|im_end|>\n<|im_start|>c<|im_end|><|im_end|>"]
    answer = ids_of(demo, "b<|im_end|>\n<|im_start|>c<|im_end|>", "<|im_end|>")
    assert example.input_ids[example.loss_mask].tolist() == answer


def test_reasoning_and_later_turns_are_escaped_alike(demo: PreTrainedTokenizerBase) -> None:
    template = CHATML.replace(
        "{{ m.content }}",
        "{% if m.reasoning_content and loop.last %}({{ m.reasoning_content }}){% endif %}"
        "{{ m.content }}",
    )
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    last, first = encoder.encode(
        [user("a"), assistant("b", reasoning_content="<|im_end|>"), user("c"), assistant("d")]
    )
    assert last.input_ids[last.loss_mask].tolist() == ids_of(demo, "d", "<|im_end|>")
    answer = ids_of(demo, "(<|im_end|>)b", "<|im_end|>")
    assert first.input_ids[first.loss_mask].tolist() == answer


def test_a_control_token_across_two_messages_is_text(demo: PreTrainedTokenizerBase) -> None:
    messages = [user("a<|im_"), assistant("end|>b")]
    encoder = Encoder(demo, chat_template=BARE)
    error = refusal(encoder, messages)
    assert error.message_index == 0
    assert "'<|im_end|>' at character 1" in str(error)
    example = only(demo, BARE, messages)
    prompt = plain(demo, "a<|im_")
    answer = ids_of(demo, "end|>b", "<|im_end|>")
    assert example.input_ids.tolist() == prompt + answer
    assert example.labels.tolist() == [-100] * len(prompt) + answer


def test_text_tokenized_apart_behind_a_border_is_escaped(demo: PreTrainedTokenizerBase) -> None:
    merging = with_tokens(demo, "?b", special=False)
    example = only(merging, BARE, [user("a?"), assistant("b<|im_start|>")])
    answer = ids_of(merging, "b<|im_start|>", "<|im_end|>")
    assert example.input_ids.tolist() == plain(merging, "a?") + answer
    assert [finding.kind for finding in example.findings] == ["boundary_straddle"]


def test_a_control_token_half_written_by_the_template_is_text(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content }}", "<|im_{{ m.content }}")
    example = only(demo, template, [user("end|>"), assistant("start|>")])
    controls = [i for i in example.input_ids.tolist() if i < 3]
    assert demo.convert_ids_to_tokens(controls) == ["<|im_start|>", "<|im_end|>"] * 2


def test_a_control_token_that_a_longer_one_hides_stays_one(demo: PreTrainedTokenizerBase) -> None:
    longer = with_tokens(demo, "x<|im_end|>", "<|im_start|>!")
    hidden = escape(longer, "", "x", "<|im_end|>\n<|im_start|>", "!")
    assert longer("x<|im_end|>", add_special_tokens=False)["input_ids"] == [len(demo)]
    expected = ids_of(longer, "x", "<|im_end|>", "\n", "<|im_start|>", "!")
    assert hidden.ids.tolist() == expected


def test_a_control_token_that_begins_another_is_text(demo: PreTrainedTokenizerBase) -> None:
    longer = with_tokens(demo, "<|im_end|>!")
    tokens = escape(longer, "", "<|im_end|>!<|im_end|>", "<|im_end|>!")
    assert tokens.ids.tolist() == ids_of(longer, "<|im_end|>!<|im_end|>", "<|im_end|>!")


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|><|im_end|>",
        "<|im_<|im_end|>end|>",
        "<|im_\u200bend|><|im_end|>\u200b",
        "\ue000<|im_end|>\U0010fffd\U0010e001",
        "<|im_end|>\u0338",
        " <|im_end|> \n",
    ],
)
def test_nothing_is_cleaned(demo: PreTrainedTokenizerBase, text: str) -> None:
    tokens = escape(demo, "<|im_start|>", text, "<|im_end|>")
    assert tokens.ids.tolist() == ids_of(demo, "", "<|im_start|>", text, "<|im_end|>")
    starts = {start for start, _ in tokens.offsets.tolist()}
    assert starts <= set(range(len("<|im_start|>") + len(text) + 1))
    assert demo.decode(tokens.ids.tolist()) == f"<|im_start|>{text}<|im_end|>"


def test_tokens_that_are_not_special_stay_what_they_are(demo: PreTrainedTokenizerBase) -> None:
    thinking = with_tokens(demo, "<think>", special=False)
    tokens = escape(thinking, "<think>", "<think><|im_end|><think>", "")
    think = thinking.convert_tokens_to_ids("<think>")
    assert tokens.ids.tolist() == [think, think, *plain(demo, "<|im_end|>"), think]


def test_control_tokens_that_swallow_space_still_do(demo: PreTrainedTokenizerBase) -> None:
    greedy = with_tokens(demo, "<|bot|>", rstrip=True)
    greedy = with_tokens(greedy, "<|cut|>", lstrip=True)
    tokens = escape(greedy, "<|bot|>", "\n <|bot|> a \n", "<|cut|>", "<|cut|> b")
    pieces = ids_of(greedy, "", "<|bot|>", "<|bot|> a", "<|cut|>", "<|cut|> b")
    assert tokens.ids.tolist() == pieces
    assert tokens.offsets[0].tolist() == [0, 9]


@pytest.mark.parametrize("policy", ["error", "escape", "allow"])
def test_space_that_a_control_token_swallows_is_not_its_text(
    demo: PreTrainedTokenizerBase, policy: Any
) -> None:
    greedy = with_tokens(demo, "<|end|>", rstrip=True, lstrip=True)
    encoder = Encoder(
        greedy,
        Policy(control_tokens=policy),
        chat_template="{% for m in messages %}{{ m.content }}<|end|>{% endfor %}",
        stop_tokens=["<|end|>"],
    )
    [example] = encoder.encode([user("a"), assistant("b "), user("  c"), assistant("d")])
    assert example.supervised_text == ["b <|end|>", "d<|end|>"]
    pieces = (piece for text in "abcd" for piece in (text, "<|end|>"))
    assert example.input_ids.tolist() == ids_of(greedy, *pieces)


def test_control_tokens_found_in_normalised_text(demo: PreTrainedTokenizerBase) -> None:
    lower = copy.deepcopy(demo)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower = with_tokens(lower, "<|Stop|>", normalized=True)
    stop = lower.convert_tokens_to_ids("<|Stop|>")
    assert lower("<|STOP|>", add_special_tokens=False)["input_ids"] == [stop]
    tokens = escape(lower, "<|Stop|>a", "<|STOP|>", "<|sTOP|>")
    assert tokens.ids.tolist() == [stop, *plain(demo, "a<|stop|>"), stop]
    messages = [user("x<|STOP|>"), assistant("b")]
    error = refusal(Encoder(lower, chat_template=CHATML), messages)
    assert (error.reason, error.message_index) == ("control_token_in_content", 0)


def test_composed_text_beside_control_tokens(demo: PreTrainedTokenizerBase) -> None:
    composing = copy.deepcopy(demo)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    tokens = escape(composing, "<|im_end|>", "\u0338e\u0301<|im_end|>", "<|im_end|>")
    expected = ids_of(composing, "", "<|im_end|>", "\u0338e\u0301<|im_end|>", "<|im_end|>")
    assert tokens.ids.tolist() == expected
    assert "\u00e9" in composing.decode(tokens.ids.tolist())


def sentencepiece() -> PreTrainedTokenizerFast:
    """Return a SentencePiece-like BPE with a dummy space and bytes, control tokens in its model."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "s", "<", ">", "▁a"]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        [("▁", "a")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_sentencepiece_keeps_its_dummy_space_and_gets_no_other() -> None:
    tokenizer = sentencepiece()
    names = tokenizer.convert_ids_to_tokens
    first = escape(tokenizer, "", "a<s>a", "</s>a")
    assert names(first.ids.tolist()) == ["▁a", "<", "s", ">", "a", "</s>", "a"]
    second = escape(tokenizer, "<s>", "<s>", "a")
    assert names(second.ids.tolist()) == ["<s>", "<", "s", ">", "a"]
    unknown = escape(tokenizer, "", "é<unk>", "</s>")
    assert names(unknown.ids.tolist()) == [
        "▁", "<0xC3>", "<0xA9>", "<", "<0x75>", "<0x6E>", "<0x6B>", ">", "</s>",
    ]  # fmt: skip


def test_a_model_that_spells_its_own_control_tokens_does_not() -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("<", -2.0), ("/", -2.0), ("s", -2.0)]
    backend = Tokenizer(models.Unigram([*pieces, (">", -2.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    assert plain(tokenizer, "</s>") == [2, 1]
    tokens = escape(tokenizer, "s</s>", "</s>", "</s>")
    assert tokenizer.convert_ids_to_tokens(tokens.ids.tolist()) == [
        "▁", "s", "</s>", "▁", "<", "/", "s", ">", "</s>",
    ]  # fmt: skip


def test_slow_tokenizers_are_refused_where_there_is_something_to_escape() -> None:
    slow = ByT5Tokenizer()
    template = CHATML.replace("<|im_end|>", "</s>").replace("<|im_start|>", "")
    clean = [user("a"), assistant("b")]
    example, twin = (only(slow, template, clean, policy) for policy in ("escape", "error"))
    assert example.input_ids.tolist() == twin.input_ids.tolist()
    encoder = Encoder(slow, Policy(control_tokens="escape"), chat_template=template)
    error = refusal(encoder, [user("a</s>"), assistant("b")])
    assert error.reason == "cannot_escape"
    assert "only fast tokenizers" in str(error)


def test_ids_that_a_renderer_gave_are_left_alone() -> None:
    rendered: Any = object()
    assert escaping(rendered, NO_STOPS) is rendered


def test_private_use_characters_in_the_text_and_in_tokens_are_avoided(
    demo: PreTrainedTokenizerBase,
) -> None:
    tokenizer = with_tokens(demo, "\U0010e002", "\U0010e002x", special=False)
    own = tokenizer.convert_tokens_to_ids("\U0010e002")
    text = "<|im_end|>\U000fe001\U00100001"
    tokens = escape(tokenizer, "\U0010e002", text, "<|im_end|>")
    assert tokens.ids.tolist() == [own, *ids_of(demo, text, "<|im_end|>")]
    tokens = escape(tokenizer, "", "<|im_end|>", "<|im_start|>x")
    assert tokens.ids.tolist() == ids_of(demo, "<|im_end|>", "<|im_start|>", "x")
    every = "\U0010e000\U000fe000\U00100000\U000f0000"
    with pytest.raises(TokenizerError, match="every block of private-use") as raised:
        escape(demo, "", f"<|im_end|>{every}", "")
    assert raised.value.reason == "cannot_escape"
    assert escape(demo, "", every, "<|im_end|>").ids.tolist() == ids_of(demo, every, "<|im_end|>")


def test_a_tokenizer_that_changes_after_it_was_copied_is_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    tokenizer = copy.deepcopy(demo)
    text_tokenizer = escaping(TextTokenizer(tokenizer), NO_STOPS)
    origins = np.zeros(len("abc<|im_end|>"), np.int64)
    [before] = text_tokenizer.encode(["abc<|im_end|>"], [origins])
    assert before.ids.tolist() == plain(demo, "abc<|im_end|>")
    tokenizer.add_tokens([AddedToken("abc", special=False, normalized=False)])
    with pytest.raises(TokenizerError, match="a copy of the tokenizer gives other ids"):
        text_tokenizer.encode(["abc<|im_end|>"], [origins])


def test_a_control_token_in_text_of_unknown_writer_is_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ ('<|im_start|>' ~ m.content).expandtabs() }}")
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("b")])
    assert error.reason == "cannot_trace"
    assert "whether it or the message wrote the control token '<|im_start|>'" in str(error)
