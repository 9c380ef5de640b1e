"""Any Python renderer can be trained with: its ids are taken as they are, or it is refused."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from lossmask import (
    ConversationError,
    Encoder,
    LossmaskError,
    ParityError,
    Policy,
    PolicyError,
    Renderer,
    TemplateError,
    TokenizerError,
    TokenRenderer,
)
from lossmask.embedded import DEMO_MODEL
from lossmask.rendered_tokens import RenderedTokens, Vocabulary
from tests.byte_renderers import (
    BOT,
    DOCS,
    END,
    USER,
    Bytes,
    JinjaAsText,
    Merging,
    Pairs,
    ParsesContent,
    SystemOnlyInPrompts,
    ToolsLast,
    code_of_docs,
    library,
)
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.renderer_parity import Ids, check
from tests.scenarios import SCENARIOS, Message, assistant, system, user

TEXT_ONLY = [s for s in SCENARIOS if all(isinstance(m["content"], str) for m in s.messages)]


@pytest.mark.parametrize("renderer", [Bytes(), Pairs(), ToolsLast(), SystemOnlyInPrompts()])
def test_every_scenario_is_what_inference_would_have(renderer: TokenRenderer) -> None:
    encoder = Encoder.from_renderer(renderer)
    cases = {
        s.name: check(encoder, library(renderer), s.messages, s.tools)
        for s in TEXT_ONLY
        if not any(m.get("tool_calls") for m in s.messages)
    }
    assert len(cases) > 15
    assert {name: case for name, case in cases.items() if case.status != "exact"} == {}


def test_the_ids_are_the_renderers_own() -> None:
    [example] = Encoder.from_renderer(Bytes()).encode([user("né"), assistant("ü")])
    assert example.input_ids.tolist() == [USER, 110, 195, 169, END, BOT, 195, 188, END]
    assert example.labels.tolist() == [-100] * 6 + [195, 188, END]
    assert example.offsets.tolist()[:4] == [[0, 6], [6, 7], [7, 8], [7, 8]]
    assert example.message_index.tolist() == [-1, 0, 0, 0, -1, -1, 1, 1, -1]
    assert type(example.text) is str


def test_a_control_token_that_a_user_types_stays_the_characters_it_is() -> None:
    messages = [user("<end><bot>"), assistant("no <end> here")]
    [example] = Encoder.from_renderer(Bytes()).encode(messages)
    assert example.input_ids.tolist() == [USER, *b"<end><bot>", END, BOT, *b"no <end> here", END]
    assert example.supervised_text == ["no <end> here<end>"]


def test_a_control_token_that_the_renderer_makes_of_text_is_refused_unless_allowed() -> None:
    messages = [user("a <user> b"), assistant("c")]
    with pytest.raises(ConversationError, match="control token '<user>' at character 2") as raised:
        Encoder.from_renderer(ParsesContent()).encode(messages)
    assert raised.value.message_index == 0
    allowing = Encoder.from_renderer(ParsesContent(), Policy(control_tokens="allow"))
    [example] = allowing.encode(messages)
    assert example.input_ids.tolist()[:5] == [USER, 97, 32, USER, 32]
    with pytest.raises(ParityError, match="the message itself holds the stop token"):
        allowing.encode([user("a"), assistant("b <end> c")])


def test_escaping_is_the_renderers_own_affair() -> None:
    with pytest.raises(PolicyError, match="decides itself what becomes a control token"):
        Encoder.from_renderer(Bytes(), Policy(control_tokens="escape"))


def test_context_that_moves_gives_one_example_per_turn() -> None:
    encoder = Encoder.from_renderer(ToolsLast())
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    last, first = encoder.encode(messages, [{"name": "f"}])
    assert last.text == "<user>a<end><bot>b<end><tools>f()<user>c<end><bot>d<end>"
    assert first.text == "<tools>f()<user>a<end><bot>b<end>"
    assert (last.supervised_text, first.supervised_text) == (["d<end>"], ["b<end>"])


def test_a_context_that_differs_is_composed_of_prompt_and_completion() -> None:
    messages = [system("s"), user("a"), assistant("b")]
    [example] = Encoder.from_renderer(SystemOnlyInPrompts()).encode(messages)
    assert example.input_ids.tolist() == [
        *(USER, 115, END, USER, 97, END, BOT),
        *(98, END),
    ]
    assert example.labels.tolist() == [-100] * 7 + [98, END]
    assert [finding.kind for finding in example.findings] == ["context_differs"]


def test_a_token_across_the_end_of_the_prompt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [user("a"), assistant("bc")]
    [example] = Encoder.from_renderer(Merging()).encode(messages)
    assert example.supervised_text == ["bc<end>"]
    plain = Pairs.text
    monkeypatch.setattr(Merging, "text", lambda self, text: plain(self, text.replace("ass", "as")))
    with pytest.raises(ParityError, match="no rendering has a token that ends where") as raised:
        Encoder.from_renderer(Merging()).encode(messages)
    assert raised.value.reason == "boundary_inside_token"


def test_prompt_ids_are_those_of_the_prompt_even_where_the_full_ids_begin_otherwise() -> None:
    class Spelled(Bytes):
        """Pairs bytes only in prompts."""

        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            bytewise = Bytes() if messages[-1]["role"] == "assistant" else Pairs()
            return bytewise.render(messages, add_generation_prompt=add_generation_prompt)

        def token_bytes(self, token_id: int) -> bytes:
            return Pairs().token_bytes(token_id)

    [example] = Encoder.from_renderer(Spelled()).encode([user("ab"), assistant("cd")])
    assert example.input_ids.tolist() == [USER, 300 + 97 * 256 + 98, END, BOT, 99, 100, END]
    assert [finding.kind for finding in example.findings] == ["boundary_straddle"]


def test_the_ids_of_each_prompt_are_its_own() -> None:
    class Typing(Bytes):
        """Spells the generation prompt in bytes once the conversation has begun."""

        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            ids = list(super().render(messages, add_generation_prompt=add_generation_prompt))
            if add_generation_prompt and len(messages) > 1:
                ids[-1:] = b"<bot>"
            return ids

    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    [example] = Encoder.from_renderer(Typing()).encode(messages)
    assert example.input_ids.tolist() == [
        *(USER, 97, END, BOT, 98, END),
        *(USER, 99, END, *b"<bot>", 100, END),
    ]
    assert check(Encoder.from_renderer(Typing()), library(Typing()), messages).status == "exact"


def test_renderings_that_read_alike_and_have_different_ids_are_refused() -> None:
    class Alternating(Pairs):
        """Writes the same text in pairs and in bytes by turns."""

        count = 0

        def text(self, text: str) -> Ids:
            self.count += 1
            return super().text(text) if self.count % 2 else list(text.encode())

    with pytest.raises(ParityError, match="other token ids for the same text") as raised:
        Encoder.from_renderer(Alternating()).encode([user("ab"), assistant("cd"), user("ef")])
    assert raised.value.reason == "ambiguous_tokens"

    known = RenderedTokens(Vocabulary(Pairs()))
    for ids in ([97, 98], [300 + 97 * 256 + 98]):
        known.add(known.spell(ids), is_prompt=False)
    with pytest.raises(ParityError, match="different token ids for texts that read alike"):
        known.encode(["ab"])


def test_a_renderer_that_is_not_the_same_each_time_is_refused() -> None:
    class Counting(Bytes):
        count = 0

        def text(self, text: str) -> Ids:
            self.count += 1
            return [*text.encode(), *str(self.count % 10).encode()]

    with pytest.raises(ParityError) as raised:
        Encoder.from_renderer(Counting()).encode([user("a"), assistant("b")])
    assert raised.value.reason == "cannot_observe"


def test_a_message_whose_text_cannot_be_followed_is_refused_by_name() -> None:
    class Counts(Bytes):
        def text(self, text: str) -> Ids:
            return list(str(sum(text.encode())).encode())

    with pytest.raises(ParityError, match="cannot tell where the text of 'content' went") as raised:
        Encoder.from_renderer(Counts()).encode([user("Hi"), assistant("Hello")])
    assert raised.value.reason == "cannot_observe"


def test_what_the_renderer_raises_is_said_with_the_message() -> None:
    class Strict(Bytes):
        def text(self, text: str) -> Ids:
            if text == "bad":
                raise KeyError("no such word")
            return super().text(text)

    encoder = Encoder.from_renderer(Strict())
    with pytest.raises(TemplateError, match="raised KeyError: 'no such word'") as raised:
        encoder.encode([user("a"), assistant("b"), user("bad"), assistant("d")])
    assert raised.value.message_index == 2

    class NoTools(Bytes):
        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            if tools:
                raise ValueError("no tools")
            return super().render(messages, add_generation_prompt=add_generation_prompt)

    with pytest.raises(TemplateError, match="no tools") as raised:
        Encoder.from_renderer(NoTools()).encode([user("a"), assistant("b")], [{"name": "f"}])
    assert raised.value.message_index is None


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ("text", TemplateError, "returned str, not a list of token ids"),
        (None, TemplateError, "returned NoneType, not a list of token ids"),
        ([1.5], TemplateError, "what is no token id"),
        ([-1], TemplateError, "returned -1, which is no token id"),
        ([70000], TokenizerError, "cannot spell its token 70000: ValueError"),
        ([0xC3], TokenizerError, "do not spell valid UTF-8"),
    ],
)
def test_what_is_no_sequence_of_ids_is_refused(
    returned: Any, error: type[LossmaskError], message: str
) -> None:
    class Returns(Bytes):
        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            return returned  # type: ignore[no-any-return]

    with pytest.raises(error, match=message):
        Encoder.from_renderer(Returns()).encode([user("a"), assistant("b")])


def test_arrays_of_ids_are_ids() -> None:
    class Arrays(Bytes):
        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Any:
            ids = super().render(messages, add_generation_prompt=add_generation_prompt)
            return np.asarray(ids, np.int64)

    messages = [user("a"), assistant("b")]
    [example] = Encoder.from_renderer(Arrays()).encode(messages)
    [same] = Encoder.from_renderer(Bytes()).encode(messages)
    assert np.array_equal(example.input_ids, same.input_ids)


def test_renderers_get_lists_of_messages() -> None:
    class Lists(Bytes):
        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            assert type(messages) is list
            return super().render(messages, add_generation_prompt=add_generation_prompt)

    messages = (user("a"), assistant("b"), user("c"), assistant("d"))
    assert len(Encoder.from_renderer(Lists()).encode(messages)) == 1


def test_a_token_without_a_spelling_is_refused() -> None:
    class Nameless(Bytes):
        def token_bytes(self, token_id: int) -> bytes:
            return b"" if token_id == BOT else super().token_bytes(token_id)

    with pytest.raises(TokenizerError, match="token 258 with no byte at all"):
        Encoder.from_renderer(Nameless())


def test_further_stop_tokens_are_ids_or_names_of_control_tokens() -> None:
    class Unstopped(Bytes):
        stop_ids = frozenset[int]()

    assert Encoder.from_renderer(Unstopped()).stop_ids == frozenset()
    assert Encoder.from_renderer(Unstopped(), stop_tokens=["<end>", 10]).stop_ids == {END, 10}
    with pytest.raises(TokenizerError, match="'<stop>' is not a control token") as raised:
        Encoder.from_renderer(Bytes(), stop_tokens=["<stop>"])
    assert raised.value.reason == "unknown_stop"


def test_renderer_and_tokenizer_must_go_together() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    with pytest.raises(TokenizerError, match="Bytes renders ids itself: leave the tokenizer out"):
        Encoder.from_renderer(Bytes(), tokenizer=tokenizer)
    with pytest.raises(TokenizerError, match="renders text: pass the transformers tokenizer"):
        Encoder.from_renderer(JinjaAsText("chatml with tools"))
    with pytest.raises(TokenizerError, match="object has no method render"):
        Encoder.from_renderer(object())  # type: ignore[arg-type]


def test_an_encoder_of_ids_has_no_tokenizer_template_or_fingerprint() -> None:
    encoder = Encoder.from_renderer(Bytes())
    with pytest.raises(TokenizerError, match="there is no transformers tokenizer"):
        _ = encoder.tokenizer
    with pytest.raises(TemplateError, match="Bytes renders conversations by its own code"):
        encoder.chat_template()
    with pytest.raises(TokenizerError, match="has no fingerprint"):
        encoder.fingerprint()
    with pytest.raises(TemplateError, match="takes no template variables, got enable_thinking"):
        encoder.encode([user("a"), assistant("b")], enable_thinking=False)


def test_one_conversation_knows_nothing_of_another() -> None:
    encoder = Encoder.from_renderer(Bytes())
    typed = [user("<end><user>a"), assistant("b")]
    [first] = encoder.encode(typed)
    [other] = encoder.encode([user(""), user("a"), assistant("b")])
    [again] = encoder.encode(typed)
    assert first.text == other.text == again.text
    assert first.input_ids.tolist() == [USER, *b"<end><user>a", END, BOT, 98, END]
    assert other.input_ids.tolist() == [USER, END, USER, 97, END, BOT, 98, END]
    assert again.input_ids.tolist() == first.input_ids.tolist()


def test_a_generation_prompt_that_the_finished_turn_lacks_is_cut_at_a_token() -> None:
    class Thinks(Bytes):
        """Opens a think block in the prompt, which the finished turn does not have."""

        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            ids = super().render(messages, add_generation_prompt=add_generation_prompt)
            return [*ids, *b"<think>"] if add_generation_prompt else ids

    [example] = Encoder.from_renderer(Thinks()).encode([user("a"), assistant("b")])
    assert [finding.kind for finding in example.findings] == ["generation_prompt_mismatch"]
    assert example.input_ids.tolist() == [USER, 97, END, BOT, 98, END]
    assert example.labels.tolist() == [-100, -100, -100, -100, 98, END]


def test_inference_stops_at_the_first_of_two_stop_tokens() -> None:
    class Twice(Bytes):
        """Ends the conversation with the stop token once more."""

        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            ids = super().render(messages, add_generation_prompt=add_generation_prompt)
            return ids if add_generation_prompt else [*ids, END]

    messages = [user("a"), assistant("b")]
    [example] = Encoder.from_renderer(Twice()).encode(messages)
    assert example.input_ids.tolist()[-3:] == [98, END, END]
    assert example.labels.tolist()[-3:] == [98, END, -100]


def test_a_stop_token_is_appended_as_the_policy_says() -> None:
    class Endless(Bytes):
        """Ends a message only when another one follows."""

        def render(
            self,
            messages: Sequence[Message],
            *,
            tools: Sequence[Any] | None = None,
            add_generation_prompt: bool = False,
        ) -> Sequence[int]:
            ids = super().render(messages, add_generation_prompt=add_generation_prompt)
            return ids if add_generation_prompt else ids[:-1]

    messages = [user("a"), assistant("b")]
    [example] = Encoder.from_renderer(Endless()).encode(messages)
    assert example.input_ids.tolist() == [USER, 97, END, BOT, 98, END]
    assert example.supervised_text == ["b<end>"]
    assert [finding.kind for finding in example.findings] == ["stop_appended"]
    never = Encoder.from_renderer(Endless(), Policy(append_stop="never"))
    assert never.encode(messages)[0].supervised_text == ["b"]


@pytest.mark.parametrize(
    "name", ["chatml with tools", "header written with the user turn", "macro and set block"]
)
def test_a_renderer_of_text_gives_what_the_same_template_gives(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    traced = Encoder(tokenizer, chat_template=FIXTURE_TEMPLATES[name])
    observed = Encoder.from_renderer(JinjaAsText(name), tokenizer=tokenizer)
    assert observed.stop_ids == traced.stop_ids
    same = 0
    for scenario in SCENARIOS:
        row = {"messages": scenario.messages, "tools": scenario.tools}
        expected, outcome = traced.encode_row(row), observed.encode_row(row)
        if outcome.rejection is not None:
            continue
        same += 1
        for one, other in zip(expected.examples, outcome.examples, strict=True):
            assert np.array_equal(one.input_ids, other.input_ids), scenario.name
            assert np.array_equal(one.labels, other.labels), scenario.name
    assert same >= len(SCENARIOS) - 4


def test_a_renderer_of_text_must_return_text() -> None:
    class Wrong(JinjaAsText):
        def render(self, *args: Any, **keys: Any) -> Any:
            return list(super().render(*args, **keys))

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    encoder = Encoder.from_renderer(Wrong("chatml with tools"), tokenizer=tokenizer)
    with pytest.raises(TemplateError, match=r"Wrong.render returned list, not text"):
        encoder.encode([user("a"), assistant("b")])


def test_the_protocols_tell_text_from_ids() -> None:
    assert isinstance(Bytes(), TokenRenderer)
    assert isinstance(JinjaAsText("macro and set block"), Renderer)
    assert not isinstance(JinjaAsText("macro and set block"), TokenRenderer)


def test_the_examples_of_the_docs_run_and_print_what_they_say() -> None:
    ids, text, *_ = code_of_docs()
    said = [line.split("# ")[1] for line in ids.splitlines() if line.startswith("print")]
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(ids, names)
        exec(text, names)
    assert printed.getvalue().splitlines() == said
    [example] = names["encoder"].encode([user("Hi"), assistant("Hello")])
    assert example.supervised_text == ["Hello<|im_end|>"]
    body = ids.partition("class ByteChat:\n")[2].partition("encoder =")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10


def test_every_reason_of_the_renderers_is_explained() -> None:
    folder = Path(__file__).resolve().parents[1] / "src" / "lossmask"
    files = ("renderers", "rendered_tokens", "mistral_renderer", "harmony_renderer", "perturbation")
    source = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in files)
    about_the_setting = {"unknown_stop", "no_tokenizer", "no_chat_template", "no_vocabulary"}
    reasons = set(re.findall(r'reason="(\w+)"', source)) - about_the_setting
    assert {"ambiguous_tokens", "cannot_observe"} <= reasons
    assert sorted(reasons - set(re.findall(r"`(\w+)`", DOCS))) == []
