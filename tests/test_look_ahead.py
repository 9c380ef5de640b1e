"""What a rendering proves about beginnings of its conversation is what transformers renders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import TemplateError
from lossmask.embedded import DEMO_MODEL
from lossmask.look_ahead import Watch, WatchedMessages
from lossmask.rendering import ChatTemplate
from lossmask.traced_rendering import Rendering
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.looking_templates import LOOKING, PLAIN
from tests.scenarios import SCENARIOS, Message, assistant, scenarios_of, system, user

CONVERSATIONS = [
    [system("s0"), user("u1"), assistant("a2"), user("u3"), assistant("a4")],
    [user("u0"), assistant("a1"), user("u2"), assistant("a3")],
    [user("u0"), user("u1"), assistant("a2"), assistant("a3"), user("u3")],
    [user("x"), assistant("x"), user("x"), assistant("x"), user("x"), assistant("x")],
    [assistant(""), user(""), assistant(" "), user("\n")],
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def check_proven(
    template: ChatTemplate, messages: list[Message], tools: list[Any] | None = None
) -> int:
    """Require that all that a rendering proves is so; return how many beginnings that are."""
    try:
        whole = template.render(messages, tools=tools)
    except TemplateError:  # it raises, or cannot be traced: nothing is proven
        return 0
    for count in whole.ends:
        _check_beginning(template, messages, count, tools, whole)
    return len(whole.ends)


def _check_beginning(
    template: ChatTemplate,
    messages: list[Message],
    count: int,
    tools: list[Any] | None,
    whole: Rendering,
) -> None:
    def rendered(add_generation_prompt: bool) -> str:
        text: str = template.tokenizer.apply_chat_template(
            messages[:count],
            tools=tools,
            chat_template=template.source(tools),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    assert whole.text[: whole.ends[count]] == rendered(False)
    assert template.render_prompt(messages[:count], whole, tools=tools) == rendered(True)
    alone, beginning = template.render(messages[:count], tools=tools), whole.beginning(count)
    assert beginning.origins.tolist() == alone.origins.tolist()
    assert (beginning.text, beginning.leaves) == (alone.text, alone.leaves)
    assert beginning.marks == alone.marks


@pytest.mark.parametrize("name", sorted(LOOKING))
def test_what_looks_ahead_proves_nothing_wrong(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template = ChatTemplate(tokenizer, LOOKING[name])
    for messages in CONVERSATIONS:
        for count in range(1, len(messages) + 1):
            check_proven(template, messages[:count])


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_looks_at_nothing_ahead_proves_all_beginnings(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template = ChatTemplate(tokenizer, PLAIN[name])
    for messages in CONVERSATIONS:
        is_first_read_apart = "system prompt" in name and messages[0]["role"] == "system"
        check_proven(template, messages)
        first = 2 if is_first_read_apart else 1
        assert list(template.render(messages).ends) == list(range(first, len(messages) + 1))[:-1]


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_own_templates_prove_nothing_wrong(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    template = ChatTemplate(tokenizer, FIXTURE_TEMPLATES[name])
    proven = sum(
        check_proven(template, scenario.messages, scenario.tools)
        for scenario in scenarios_of(FIXTURE_TEMPLATES[name])
    )
    proves_nothing = ("reasoning kept", "macro and set block", "generation tags")
    assert bool(proven) != name.startswith(proves_nothing)


def _corpus_proves(names: list[str]) -> int:
    proven = 0
    for name in names:
        template = ChatTemplate(corpus.tokenizer_for(name), corpus.template_source(name))
        for scenario in SCENARIOS:
            proven += check_proven(template, scenario.messages, scenario.tools)
    return proven


@corpus.needs_corpus
def test_some_published_templates_prove_nothing_wrong() -> None:
    assert _corpus_proves(corpus.template_names()[5::60]) > 0


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_published_templates_prove_nothing_wrong(part: int) -> None:
    assert _corpus_proves(corpus.template_names()[part::8]) > 0


def test_a_prompt_that_is_not_what_was_proven_is_an_error(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = PLAIN["each message"]
    template = ChatTemplate(tokenizer, source)
    messages = CONVERSATIONS[1]
    whole = template.render(messages)
    assert template.render_prompt(messages[:1], whole) == "user:u0\n[assistant]"
    with pytest.raises(TemplateError, match="differs from transformers' at character 5") as raised:
        template.render_prompt([user("x0")], whole)
    assert raised.value.reason == "cannot_trace"


def test_the_generation_prompt_is_known_once_a_prompt_was_needed(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = ChatTemplate(tokenizer, PLAIN["each message"])
    whole = template.render(CONVERSATIONS[1])
    assert template.invitation(None, {}) is None
    template.render_prompt(CONVERSATIONS[1][:1], whole)
    assert template.invitation(None, {}) == "[assistant]"
    assert template.invitation(None, {"other": 1}) is None


def _watched(count: int) -> tuple[Watch, WatchedMessages]:
    watch = Watch()
    watch.begin(count)
    return watch, WatchedMessages([f"m{index}" for index in range(count)], watch)


def _holding(watch: Watch, count: int) -> list[int]:
    return [number for number in range(1, count) if watch.holds(number)]


def test_a_loop_alone_reads_nothing_ahead() -> None:
    watch, messages = _watched(4)
    for index, message in enumerate(messages):
        watch.start(index)
        assert message == f"m{index}"
        watch.end(index)
    assert _holding(watch, 4) == [1, 2, 3]


def test_a_message_that_is_read_early_is_proven_for_what_has_it_only() -> None:
    watch, messages = _watched(5)
    for index, _ in enumerate(messages):
        watch.start(index)
        if index == 1:
            assert messages[3] == "m3"
        watch.end(index)
    assert _holding(watch, 5) == [1, 4]


READS_ALL: dict[str, Callable[[WatchedMessages], object]] = {
    "len": len,
    "reversed": lambda m: next(reversed(m)),
    "repr": repr,
    "str": str,
    "==": lambda m: m == ["m0"],
    "== from the left": lambda m: ["m0"] == m,  # noqa: SIM300
    "!=": lambda m: m != [],
    "<": lambda m: m < ["n"],
    "> from the left": lambda m: m < ["n"],
    "<=": lambda m: m <= ["n"],
    ">=": lambda m: m >= ["n"],
    "in": lambda m: "m1" in m,
    "+": lambda m: m + ["x"],  # noqa: RUF005  (that is what is tried)
    "+ from the left": lambda m: ["x"] + m,  # noqa: RUF005
    "*": lambda m: m * 2,
    "* from the left": lambda m: 2 * m,
    "copy": lambda m: m.copy(),
    "count": lambda m: m.count("m0"),
    "index": lambda m: m.index("m0"),
    "[-1]": lambda m: m[-1],
    "[:1]": lambda m: m[:1],
    "[::2]": lambda m: m[::2],
    "[-1:]": lambda m: m[-1:],
}


@pytest.mark.parametrize("name", READS_ALL)
def test_what_depends_on_all_messages_proves_no_beginning(name: str) -> None:
    watch, messages = _watched(3)
    READS_ALL[name](messages)
    assert _holding(watch, 3) == []


@pytest.mark.parametrize("name", READS_ALL)
def test_a_watched_list_is_the_list(name: str) -> None:
    plain = ["m0", "m1", "m2"]
    assert READS_ALL[name](_watched(3)[1]) == READS_ALL[name](plain)  # type: ignore[arg-type]


def test_an_index_out_of_range_tells_how_many_there_are() -> None:
    watch, messages = _watched(3)
    with pytest.raises(IndexError):
        messages[7]
    assert _holding(watch, 3) == []


@pytest.mark.parametrize("read", [list, sorted, tuple, set, max, "".join, dict.fromkeys])
def test_going_through_all_messages_proves_no_beginning(
    read: Callable[[WatchedMessages], object],
) -> None:
    watch, messages = _watched(3)
    read(messages)
    assert _holding(watch, 3) == []


def test_what_lies_behind_a_slice_is_counted_from_its_start() -> None:
    watch, messages = _watched(4)
    rest = messages[1:][1:]
    assert isinstance(rest, WatchedMessages)
    assert list.__len__(rest) == 2
    assert _holding(watch, 4) == [1, 2, 3]  # nothing is read by making it
    assert rest[0] == "m2"
    assert _holding(watch, 4) == [3]


def test_being_empty_is_read_off_the_first_message() -> None:
    watch, messages = _watched(3)
    assert messages[1:]
    assert _holding(watch, 3) == [2]
    watch, messages = _watched(3)
    assert not messages[3:]
    assert _holding(watch, 3) == []


def test_reading_behind_the_loop_proves_nothing() -> None:
    watch, messages = _watched(2)
    for index, _ in enumerate(messages):
        watch.start(index)
        watch.end(index)
    assert watch.holds(1)
    assert messages[0] == "m0"
    assert not watch.holds(1)


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_second_loop_proves_nothing(ends_first: bool) -> None:
    watch, _ = _watched(3)
    watch.start(0)
    if ends_first:
        watch.end(0)
    watch.start(0)
    assert not watch.holds(1)


def test_a_new_rendering_forgets_the_one_before() -> None:
    watch, messages = _watched(3)
    len(messages)
    watch.start(0)
    watch.start(0)
    watch.begin(3)
    assert _holding(watch, 3) == [1, 2]
