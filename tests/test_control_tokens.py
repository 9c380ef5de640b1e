"""Control tokens that messages hold as text: refused by name, escaped exactly, or let through."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AddedToken,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lossmask import ConversationError, Encoder, Example, LossmaskError, ParityError, Policy
from lossmask.control_tokens import control_tokens_of
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import TokenizerError
from lossmask.escaping import escaping
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer, Tokens
from tests import corpus
from tests.attack_strings import attacks
from tests.control_token_parity import (
    Attack,
    Encoders,
    check_allowed,
    check_escaped,
    check_refused,
    encoders,
)
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity import Case, check
from tests.scenarios import SCENARIOS, WEATHER, Message, assistant, call, user

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
NO_STOPS = Stops(frozenset(), (), None)
PUBLISHED = [
    "llamacpp__google-gemma-2-2b-it.jinja",  # SentencePiece
    "minimind__model.jinja",  # stop tokens in the vocabulary of the model
    "mistralrs__llama2.jinja",  # SentencePiece with a dummy space
    "ollama__qwen3-coder-30b.jinja",
    "trl__phi3.jinja",  # control tokens that swallow white space
]


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


# What is escaped


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


def test_stop_tokens_are_control_tokens_even_if_not_flagged(demo: PreTrainedTokenizerBase) -> None:
    tokenizer = with_tokens(demo, "<|eot|>", special=False)
    template = CHATML.replace("<|im_end|>", "<|eot|>")
    encoder = Encoder(
        tokenizer, Policy(control_tokens="escape"), chat_template=template, stop_tokens=["<|eot|>"]
    )
    messages = [user("a"), assistant("b<|eot|>")]
    [example] = encoder.encode(messages)
    stop = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert example.input_ids[example.loss_mask].tolist() == [*plain(demo, "b<|eot|>"), stop]
    refusing = Encoder(tokenizer, chat_template=template, stop_tokens=["<|eot|>"])
    assert "'<|eot|>' at character 1" in str(refusal(refusing, messages))


# Tokenizers


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


def test_unknown_characters_are_no_control_tokens() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    control = control_tokens_of(TextTokenizer(tokenizer), NO_STOPS)
    ids, offsets = np.array([2, 0, 0, 1], np.int32), np.array([[0, 1], [2, 3], [4, 9], [9, 13]])
    found = control.occurrences("a é <unk></s>", Tokens(ids, offsets))
    assert found == [(4, 9, 0), (9, 13, 1)]


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


# What is refused


def test_a_control_token_in_text_of_unknown_writer_is_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ ('<|im_start|>' ~ m.content).expandtabs() }}")
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("b")])
    assert error.reason == "cannot_trace"
    assert "whether it or the message wrote the control token '<|im_start|>'" in str(error)


@pytest.mark.parametrize("policy", ["error", "escape"])
def test_control_tokens_in_tools_are_refused(demo: PreTrainedTokenizerBase, policy: Any) -> None:
    template = FIXTURE_TEMPLATES["chatml with tools"]
    encoder = Encoder(demo, Policy(control_tokens=policy), chat_template=template)
    tools = [{**WEATHER, "description": "<|im_end|>"}]
    error = refusal(encoder, [user("a"), assistant("b")], tools)
    assert error.reason == "control_token_in_content"
    assert "'tools' contains the control token '<|im_end|>'" in str(error)


@pytest.mark.parametrize("policy", ["error", "escape"])
def test_control_tokens_in_keys_of_messages_are_refused(
    demo: PreTrainedTokenizerBase, policy: Any
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m | tojson }}")
    encoder = Encoder(demo, Policy(control_tokens=policy), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("b"), user("c") | {"<|im_end|>": 1}])
    assert (error.reason, error.message_index) == ("control_token_in_content", 2)
    assert "a key contains the control token '<|im_end|>'" in str(error)


def test_an_answer_that_begins_with_a_control_token_of_its_prompt_is_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<|endoftext|>{% endif %}"
    )
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("<|endoftext|>b")])
    assert (error.reason, error.message_index) == ("control_token_in_content", 1)
    assert "begins with the control token '<|endoftext|>', which is in its prompt" in str(error)


@pytest.mark.parametrize("answer", ["b<|im_end|>c", "b<|im_end|>", "<|im_end|>"])
def test_an_allowed_stop_token_inside_an_answer_is_refused(
    demo: PreTrainedTokenizerBase, answer: str
) -> None:
    encoder = Encoder(demo, Policy(control_tokens="allow"), chat_template=CHATML)
    error = refusal(encoder, [user("a"), assistant(answer)])
    assert isinstance(error, ParityError)
    assert (error.reason, error.message_index) == ("stop_inside", 1)
    assert "itself holds the stop token '<|im_end|>'" in str(error)


def test_a_stop_token_that_is_an_ordinary_word_ends_an_answer_as_well(
    demo: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(demo, chat_template=CHATML, stop_tokens=["\n"])
    [example] = encoder.encode([user("a\nb"), assistant("c")])
    assert example.supervised_text == ["c<|im_end|>"]
    error = refusal(encoder, [user("a"), assistant("b\nc")])
    assert (error.reason, error.message_index) == ("stop_inside", 1)


def test_other_control_tokens_are_allowed_as_the_tokenizer_reads_them(
    demo: PreTrainedTokenizerBase,
) -> None:
    messages = [user("x<|im_end|><|im_"), assistant("b<|im_start|>c")]
    example = only(demo, CHATML, messages, "allow")
    assert example.input_ids.tolist() == demo(example.text, add_special_tokens=False)["input_ids"]
    assert example.supervised_text == ["b<|im_start|>c<|im_end|>"]


def test_the_error_names_message_field_token_and_place(demo: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(demo, chat_template=FIXTURE_TEMPLATES["chatml with tools"])
    asked = assistant("", tool_calls=[call("weather", {"city": "Rome<|im_start|>"})])
    with pytest.raises(
        ConversationError,
        match=r"message 1: 'tool_calls/0/function/arguments/city' contains the control token "
        r"'<\|im_start\|>' at character 4: .* control_tokens=\"escape\" or \"allow\"",
    ):
        encoder.encode([user("a"), asked])


# Against the oracle


def cases(policies: Encoders, every: int, first: int) -> list[tuple[str, Case]]:
    """Try every n-th attack with each policy."""
    chosen = list(attacks(policies.error))[first % every :: every]
    return [
        (f"{attack.name}: {check.__name__}", check(policies, attack))
        for attack in chosen
        for check in (check_escaped, check_refused, check_allowed)
    ]


def assert_none_wrong(tried: list[tuple[str, Case]], *, exact: float) -> None:
    wrong = {name: case.detail for name, case in tried if case.status == "wrong"}
    assert not wrong
    escaped = [case for name, case in tried if name.endswith("check_escaped")]
    share = Counter((case.status, case.detail) for case in escaped)["exact", "every id"]
    assert share >= exact * len(escaped), Counter(escaped)


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_attacks_on_own_templates(name: str, demo: PreTrainedTokenizerBase) -> None:
    policies = encoders(demo, FIXTURE_TEMPLATES[name])
    assert_none_wrong(cases(policies, 37, sorted(FIXTURE_TEMPLATES).index(name)), exact=0.9)


@corpus.needs_corpus
@pytest.mark.parametrize("template", PUBLISHED)
def test_attacks_on_published_templates(template: str) -> None:
    policies = encoders(corpus.tokenizer_for(template), corpus.template_source(template))
    assert_none_wrong(cases(policies, 43, PUBLISHED.index(template)), exact=0.5)


@corpus.needs_corpus
@pytest.mark.slow
def test_attacks_on_all_published_templates() -> None:
    tried = []
    for number, name in enumerate(corpus.template_names()):
        policies = encoders(corpus.tokenizer_for(name), corpus.template_source(name))
        tried += [(f"{name}: {case}", result) for case, result in cases(policies, 17, number)]
    assert_none_wrong(tried, exact=0.8)


FRAGMENTS = (
    *("<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<|", "|>", "<", "assistant\n"),
    *(" ", "\n", "a", "b c", "\\", '"', "e\u0301", "\u0338", "龘", "😀", "\u200b"),
    *("\ue000", "\U0010e001", "\U0010fffd"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map("".join)


@pytest.fixture(scope="module")
def policies(demo: PreTrainedTokenizerBase) -> dict[str, Encoders]:
    return {name: encoders(demo, template) for name, template in FIXTURE_TEMPLATES.items()}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=TEXTS, answer=TEXTS, name=st.sampled_from(sorted(FIXTURE_TEMPLATES)))
def test_any_text_escapes_exactly(
    policies: dict[str, Encoders], asked: str, answer: str, name: str
) -> None:
    kept = frozenset(' \n"\\\u0338\u0301')
    masked = ("".join(c if c in kept else "z" for c in text) for text in (asked, answer))
    messages, harmless = (
        [user("Q0 " + a), assistant("A1 " + b), user("Q2?"), assistant("A3.")]
        for a, b in ((asked, answer), masked)
    )
    attack = Attack("drawn", messages, harmless, (0, 1))
    tried = [(f.__name__, f(policies[name], attack)) for f in (check_escaped, check_refused)]
    assert_none_wrong([*tried, ("check_allowed", check_allowed(policies[name], attack))], exact=0)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), min_size=2, max_size=2),
    name=st.sampled_from(sorted(FIXTURE_TEMPLATES)),
)
def test_clean_conversations_are_the_same_as_without_escaping(
    policies: dict[str, Encoders], texts: list[str], name: str
) -> None:
    asked, answer = texts
    assert_same(policies[name], [user(asked), assistant(answer), user("c"), assistant("d")])


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_clean_scenarios_are_the_same_as_without_escaping(
    policies: dict[str, Encoders], name: str
) -> None:
    for scenario in SCENARIOS:
        assert_same(policies[name], scenario.messages, scenario.tools)


def assert_same(policies: Encoders, messages: list[Message], tools: Any = None) -> None:
    outcomes = []
    for encoder in (policies.error, policies.escape):
        try:
            examples = encoder.encode(messages, tools)
        except LossmaskError as error:
            outcomes.append(str(error))
            continue
        outcomes.append(
            repr([(e.input_ids.tolist(), e.labels.tolist(), e.spans, e.findings) for e in examples])
        )
    assert outcomes[0] == outcomes[1]


def test_the_oracle_notices_a_control_token_that_was_not_escaped(
    demo: PreTrainedTokenizerBase,
) -> None:
    policies = encoders(demo, CHATML)
    unescaped = policies._replace(escape=policies.allow, error=policies.allow)
    attack = Attack(
        "one", [user("Q0 <|im_end|>"), assistant("A1.")],
        [user("Q0 zzzzzzzzzz"), assistant("A1.")], (0,),
    )  # fmt: skip
    assert check(policies.error, attack.harmless).status == "exact"
    assert check_escaped(policies, attack) == Case("exact", "every id")
    assert check_escaped(unescaped, attack).status == "wrong"
    assert check_refused(policies, attack).status == "exact"
    assert check_refused(unescaped, attack).status == "wrong"
