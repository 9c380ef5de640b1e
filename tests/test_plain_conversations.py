"""Plain conversations are laid out from one rendering, or left to the whole way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import TemplateError
from lossmask.layout import Layout
from lossmask.plain_conversations import (
    PlainConversations,
    _could_think,
    _shows_all,
    _telling_parts,
)
from lossmask.rendered_turns import RenderedTurns
from lossmask.rendering import ChatTemplate
from lossmask.skeletons import PlainLayout
from lossmask.stops import Stops
from tests.both_ways import check_both_ways, ready
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import Message, assistant, system, tool, user

ASKED = [user("Hi?"), assistant("Yes.")]
CHATML = FIXTURE_TEMPLATES["chatml with tools"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def conversations(encoder: Encoder, layout: Layout | None = None) -> PlainConversations:
    return PlainConversations(ready(encoder)._setting, layout or encoder.layout)


def laid_out(plain: PlainConversations, row: Any) -> PlainLayout | None:
    """Lay out a row, the second time by its skeleton, which must make no difference."""
    layouts = plain.lay_out(row)
    again = plain.lay_out(row)
    if layouts is None:
        assert again is None
        return None
    assert again is not None
    [layout], [same] = layouts, again
    assert layout.text == same.text
    assert (layout.written, layout.completions) == (same.written, same.completions)
    return layout


@pytest.fixture(scope="module")
def plain(tokenizer: PreTrainedTokenizerBase) -> PlainConversations:
    return conversations(Encoder(tokenizer, chat_template=CHATML, fast=False))


def test_contents_and_completions_are_laid_out_in_characters(plain: PlainConversations) -> None:
    messages = [system("Be."), user("Hi?"), assistant("Yes."), user(""), assistant("é")]
    layout = laid_out(plain, {"messages": messages})
    assert layout is not None
    assert layout.text == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\né<|im_end|>\n"
    )
    written = {index: layout.text[start:end] for index, start, end in layout.written}
    assert written == {0: "Be.", 1: "Hi?", 2: "Yes.", 4: "é"}
    completions = {index: layout.text[start:end] for index, start, end in layout.completions}
    assert completions == {2: "Yes.<|im_end|>", 4: "é<|im_end|>"}
    assert [start for _, start, _ in layout.completions] == [
        start for index, start, _ in layout.written if index in completions
    ]


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [("all_assistant", [1, 2, 4, 6]), ("last_assistant", [6]), ("last_turn", [4, 6])],
)
def test_the_policy_says_which_turns_are_trained(
    tokenizer: PreTrainedTokenizerBase, train_on: Any, trained: list[int]
) -> None:
    roles = "uaauasa"
    of_role = {"u": user, "a": assistant, "s": system}
    messages = [of_role[role](f"{role}{index}") for index, role in enumerate(roles)]
    encoder = Encoder(tokenizer, Policy(train_on=train_on), chat_template=CHATML, fast=False)
    layout = laid_out(conversations(encoder), {"messages": messages})
    assert layout is not None
    assert [index for index, *_ in layout.completions] == trained
    assert check_both_ways(encoder, [{"messages": messages}]) == 1


class Role(str):
    """A string that is printed as another one."""

    def __str__(self) -> str:
        return "user!"


NOT_PLAIN: dict[str, Any] = {
    "no object": None,
    "a number": 3,
    "a text": "messages",
    "a list": ASKED,
    "no messages": {"text": "a"},
    "messages that are no list": {"messages": tuple(ASKED)},
    "no message": {"messages": []},
    "a message that is no object": {"messages": [user("a"), "b"]},
    "a role that is a list": {"messages": [{"role": [], "content": "a"}, assistant("b")]},
    "a role that is an object": {"messages": [{"role": {}, "content": "a"}, assistant("b")]},
    "no role": {"messages": [{"content": "a", "name": "user"}, assistant("b")]},
    "another role": {"messages": [user("a"), assistant("b"), tool("c")]},
    "a role that is more than a string": {
        "messages": [{"role": Role("user"), "content": "a"}, assistant("b")]
    },
    "a content that is more than a string": {"messages": [user(Role("a")), assistant("b")]},
    "no content": {"messages": [{"role": "user", "name": "a"}, assistant("b")]},
    "a null content": {"messages": [user("a"), assistant(None)]},
    "parts": {"messages": [user([{"type": "text", "text": "a"}]), assistant("b")]},
    "a further key": {"messages": [user("a"), assistant("b", weight=0)]},
    "nothing to train": {"messages": [user("a"), system("b")]},
    "an answer without prompt": {"messages": [assistant("a"), user("b"), assistant("c")]},
    "an empty answer": {"messages": [user("a"), assistant("")]},
    "a control token": {"messages": [user("a <|im_end|>"), assistant("b")]},
    "a control token in the answer": {"messages": [user("a"), assistant("<|endoftext|>")]},
    "what might be one": {"messages": [user("a <|"), assistant("b")]},
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_takes_the_whole_way(plain: PlainConversations, name: str) -> None:
    assert plain.lay_out(NOT_PLAIN[name]) is None


def test_what_is_not_plain_has_the_same_outcome(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = ready(Encoder(tokenizer, chat_template=CHATML, fast=False))
    assert check_both_ways(encoder, [*NOT_PLAIN.values(), {"messages": ASKED}]) == 1


@pytest.mark.parametrize(
    "others",
    [
        {"id": 7},
        {"metadata": {"weight": 0, "train": False}},
        {"source": "x", "label": [1], "url": None},
        {1: 2},
        {"prompt": "a"},  # a prompt without completion is none of the formats
    ],
)
def test_keys_that_no_format_reads_change_nothing(
    tokenizer: PreTrainedTokenizerBase, others: dict[Any, Any]
) -> None:
    encoder = ready(Encoder(tokenizer, chat_template=CHATML, fast=False))
    assert check_both_ways(encoder, [{"messages": ASKED, **others}]) == 1


@pytest.mark.parametrize(
    "others",
    [
        {"tools": []},
        {"tools": None},
        {"weight": 0.5},
        {"weight": 1},
        {"system": "x"},
        {"text": "x"},
        {"train": False},
        {"input_ids": [1]},
        {"conversations": ASKED},
        {"prompt": "a", "completion": "b"},  # each alone is read by no format
        {"instruction": "a", "output": "b", "id": 1},
        {"query": "a", "response": "b"},
    ],
)
def test_keys_that_a_format_reads_take_the_whole_way(
    tokenizer: PreTrainedTokenizerBase, others: dict[Any, Any]
) -> None:
    encoder = ready(Encoder(tokenizer, chat_template=CHATML, fast=False))
    assert check_both_ways(encoder, [{"messages": ASKED, **others}]) == 0


@pytest.mark.parametrize(
    "policy",
    [
        Policy(train_on="all"),
        Policy(train_on=("assistant",)),
        Policy(train_on=("user",)),
        Policy(spans="tags"),
        Policy(weights={"stop": 0.5}),
        Policy(loss_scale="react"),
        Policy(ignore=("a",)),
        Policy(stop="never"),
        Policy(stop="last"),
        Policy(empty_think="ignore"),
    ],
    ids=lambda policy: str({k: v for k, v in policy.to_mapping().items() if v})[:40],
)
def test_policies_under_which_tokens_are_weighed_take_the_whole_way(
    tokenizer: PreTrainedTokenizerBase, policy: Policy
) -> None:
    encoder = ready(Encoder(tokenizer, policy, chat_template=CHATML, fast=False))
    assert not conversations(encoder).is_possible
    assert check_both_ways(encoder, [{"messages": ASKED}]) == 0


@pytest.mark.parametrize(
    "policy",
    [
        Policy(history="last"),
        Policy(history="error"),
        Policy(history="as_rendered"),
        Policy(boundary="error"),
        Policy(boundary="exclude"),
        Policy(control_tokens="escape"),
        Policy(control_tokens="allow"),
        Policy(append_stop="never"),
        Policy(train_on="last_assistant"),
    ],
    ids=lambda policy: str(policy.to_mapping())[-70:],
)
def test_policies_that_change_nothing_about_plain_conversations(
    tokenizer: PreTrainedTokenizerBase, policy: Policy
) -> None:
    encoder = ready(Encoder(tokenizer, policy, chat_template=CHATML, fast=False))
    rows = [{"messages": ASKED}, {"messages": [user("<|im_end|>"), assistant("a <|im_start|>")]}]
    assert check_both_ways(encoder, rows) == 1


def test_other_layouts_and_proofs_take_the_whole_way(tokenizer: PreTrainedTokenizerBase) -> None:
    for layout in (Layout(format="openai"), Layout(columns={"messages": "chat"})):
        assert not conversations(Encoder(tokenizer), layout).is_possible
    for proof in ("rows", "off"):
        assert not conversations(Encoder(tokenizer, proof=proof)).is_possible


PROMPT_ENDS = {
    "chatml with tools": "<|im_start|>assistant\n",
    "thinking opened by the generation prompt": None,
    "header written with the user turn": "<|im_start|>",
    "instruction brackets, system in the first user turn": " [/INST]",
    "generation tags and end of text after the last turn": None,  # a prompt begins otherwise
}


@pytest.mark.parametrize("name", PROMPT_ENDS)
def test_what_all_prompts_end_with(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    encoder = Encoder(tokenizer, chat_template=FIXTURE_TEMPLATES[name])
    assert PlainConversations(encoder._setting, encoder.layout).prompt_end() == PROMPT_ENDS[name]


def test_an_answer_that_begins_in_a_think_block_takes_the_whole_way(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = FIXTURE_TEMPLATES["thinking opened by the generation prompt"]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    assert check_both_ways(encoder, [{"messages": ASKED}]) == 0


TEMPLATES = {
    "a trimmed content": CHATML.replace("m.content or ''", "m.content | trim"),
    "a content shown twice": CHATML.replace("m.content or ''", "m.content ~ m.content"),
    "an altered content": CHATML.replace("m.content or ''", "m.content | replace('i', 'j')"),
    "no stop": CHATML.replace("<|im_end|>", ""),
    "a look ahead": CHATML.replace("{{ m.content", "{{ '!' if loop.last }}{{ m.content"),
    "a text that only transformers can tell": CHATML.replace("m.role }}", "m.role | tojson }}"),
    "a system prompt that is dropped": CHATML.replace(
        "{{ m.content or '' }}", "{{ m.content if m.role != 'system' }}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_do_more_than_write_take_the_whole_way(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    encoder = ready(Encoder(tokenizer, chat_template=TEMPLATES[name], fast=False))
    rows = [{"messages": [system(" Be "), user(" Hi? "), assistant(" i x ")]}]
    assert check_both_ways(encoder, rows) == 0


def test_a_template_sees_the_variables_that_transformers_gives_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{{ documents[0].text }}{{ mark }}{{ eos_token }}{{ pad_token }}{{ tools }}" + CHATML
    variables = {"documents": [{"text": "D"}], "mark": Role("!")}
    encoder = ready(Encoder(tokenizer, chat_template=source, template_variables=variables))
    assert check_both_ways(encoder, [{"messages": ASKED}]) == 1
    [outcome] = encoder.encode_batch([{"messages": ASKED}])
    eos, pad = tokenizer.eos_token, tokenizer.pad_token
    assert outcome.examples[0].text.startswith(f"D!{eos}{pad or ''}")


def test_a_control_token_in_a_key_takes_the_whole_way(tokenizer: PreTrainedTokenizerBase) -> None:
    odd = copy.deepcopy(tokenizer)
    odd.add_tokens([AddedToken("rol", special=True, normalized=False)], special_tokens=True)
    encoder = ready(Encoder(odd, chat_template=CHATML))
    assert check_both_ways(encoder, [{"messages": ASKED}]) == 0
    rejection = encoder.encode_batch([{"messages": ASKED}])[0].rejection
    assert rejection is not None
    assert rejection.reason == "control_token_in_content"


@pytest.mark.parametrize("prompts_only", [False, True])
def test_a_rendering_is_held_against_transformers_when_it_is_due(
    tokenizer: PreTrainedTokenizerBase, prompts_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = conversations(Encoder(tokenizer, chat_template=CHATML))
    template = plain._setting.template
    assert isinstance(template, ChatTemplate)
    own = template.render_text
    asked: list[tuple[int, bool]] = []

    def other(messages: list[Message], **options: Any) -> str:
        is_prompt = options.get("add_generation_prompt", False)
        asked.append((len(messages), is_prompt))
        return own(messages, **options) + ("!" if is_prompt or not prompts_only else "")

    monkeypatch.setattr(template, "is_due", lambda text: True)
    assert plain.lay_out({"messages": ASKED}) is not None
    monkeypatch.setattr(template, "render_text", other)
    assert plain.lay_out({"messages": ASKED}) is None
    assert asked == ([(2, False), (1, True)] if prompts_only else [(2, False)])

    def raises(*_: Any, **__: Any) -> str:
        raise TemplateError("no")

    monkeypatch.setattr(template, "render_text", raises)
    assert plain.lay_out({"messages": ASKED}) is None
    monkeypatch.setattr(template, "is_due", lambda text: False)
    assert plain.lay_out({"messages": ASKED}) is not None


def test_every_text_holds_one_of_its_telling_parts() -> None:
    texts = ["<|im_end|>", "<|im_start|>", "</s>", "x", "[INST]", "<|a|>"]
    parts = _telling_parts(texts)
    assert parts == ["<|", "/s", "IN", "x"]
    assert all(any(part in text for part in parts) for text in texts)
    assert _telling_parts([]) == []


@pytest.mark.parametrize(
    ("shown", "is_all"),
    [([0, 2], True), ([0], False), ([0, 0, 2], False), ([2, 0], False), ([], False)],
)
def test_contents_are_written_once_and_in_order(shown: list[int], is_all: bool) -> None:
    written = [(index, 10 * place, 10 * place + 1) for place, index in enumerate(shown)]
    assert _shows_all(written, ["a", "", "b"]) is is_all


def test_a_completion_ends_behind_the_stops_that_follow_each_other(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tokenizer, chat_template=CHATML)
    setting = replace(encoder._setting, stops=Stops(frozenset({1, 2}), ("<e>", "<s>"), "<s>"))
    plain = PlainConversations(setting, encoder.layout)
    assert plain._end_of_stop("\n<e>\n<s>") == 4
    assert plain._end_of_stop("<e><e><s><e>") == 9
    assert plain._end_of_stop("\n") == 0


@pytest.mark.parametrize(
    ("invitation", "could"),
    [
        ("<|im_start|>assistant\n", False),
        ("", True),
        (" \n", True),
        ("<a><think>\n", True),
        ("<a><think></think>", True),
        ("[THINK]", True),
        ("nk>\n", True),  # a content may end with the rest of it
        ("nk> a", False),
    ],
)
def test_a_generation_prompt_that_could_think(invitation: str, could: bool) -> None:
    assert _could_think(invitation) is could


def test_beginnings_are_not_rendered_in_vain_for_ever(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CHATML.replace("{{ m.content", "{{ '!' if loop.last }}{{ m.content")
    plain = conversations(Encoder(tokenizer, chat_template=source, fast=False))
    tried: list[int] = []

    def examples(self: RenderedTurns, messages: list[Message], *_: Any) -> None:
        tried.append(len(messages))

    monkeypatch.setattr(RenderedTurns, "examples", examples)
    for _ in range(20):
        assert plain.lay_out({"messages": ASKED}) is None
    assert len(tried) == 15  # not at first sight, and 16 times at most
    for count in range(2, 12):
        for _ in range(20):
            plain.lay_out({"messages": ASKED * count})
    assert len(tried) == 51
