"""Perturbation tells which string wrote which character of any renderer, or that it cannot tell."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lossmask.errors import ParityError
from lossmask.perturbation import Observation, observe
from lossmask.rendering import Message, trace_messages
from lossmask.traced_rendering import Leaf
from tests.scenarios import SCENARIOS, Scenario, assistant, call, tool, user


def chatml(messages: Sequence[Message]) -> str:
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>\n" for m in messages)


def stripped(messages: Sequence[Message]) -> str:
    return "".join(f"[{m['content'].strip()}]\n" for m in messages)


def drawn(observation: Observation) -> str:
    """Draw the text, a letter per leaf in place of each of its characters: a … z, ~ if inferred."""
    rendering = observation.rendering
    letters = "abcdefghijklmnopqrstuvwxyz"
    picture = ""
    for position, character in enumerate(rendering.text):
        origin = int(rendering.origins[position])
        own = letters[origin >> 32] if observation.moved[position] else "~"
        picture += character if origin < 0 else own
    return picture


def offsets(observation: Observation) -> list[int]:
    """Return the offset of every attributed character; -1 where it cannot be told."""
    rendering = observation.rendering
    places = [rendering.origin(position) for position in range(len(rendering.text))]
    return [offset for leaf, offset in places if leaf is not None]


def test_every_character_that_a_message_wrote_is_told() -> None:
    seen = observe(chatml, [user("Hi, Bob?"), assistant("No.")])
    assert drawn(seen) == "<|user|>aaa~aaaa<|end|>\n<|assistant|>bbb<|end|>\n"
    assert offsets(seen) == [*range(8), *range(3)]
    assert seen.rendering.leaves == (Leaf(0, "content"), Leaf(1, "content"))
    assert [flags.tolist() for flags in seen.replaced] == [
        [True] * 3 + [False] + [True] * 4,
        [True] * 3,
    ]
    assert not seen.undetermined
    assert seen.rendering.marks == ()


def test_equal_texts_are_told_apart() -> None:
    messages = [user("same words"), assistant("same words"), user("same words")]
    seen = observe(stripped, messages)
    assert drawn(seen) == "[aaaa~aaaaa]\n[bbbb~bbbbb]\n[cccc~ccccc]\n"
    assert offsets(seen) == [*range(10)] * 3


def test_text_shown_twice_or_in_part_is_told_each_time() -> None:
    def render(messages: Sequence[Message]) -> str:
        text = messages[0]["content"]
        return f"{text}|{text[6:]}|{text}"

    seen = observe(render, [user("Hello Bob")])
    assert drawn(seen) == "aaaaa~aaa|aaa|aaaaa~aaa"
    assert offsets(seen) == [*range(9), 6, 7, 8, *range(9)]


def test_text_equal_to_what_the_template_writes_stays_apart() -> None:
    messages = [user("assistant"), assistant("user")]
    assert (
        drawn(observe(chatml, messages)) == "<|user|>aaaaaaaaa<|end|>\n<|assistant|>bbbb<|end|>\n"
    )


@pytest.mark.parametrize(
    ("content", "raw", "trimmed"),
    [
        ("  Hi \n", "aaaaaa", "aa"),
        ("\n\nHi!", "aaaaa", "aaa"),
        (" ", "a", ""),
        ("?!", "aa", "aa"),
        ("👍🏽", "aa", "aa"),
        ("0", "a", "a"),
        ("{}", "aa", "aa"),
        ("<b>Hi</b>", "~~~aa~~~~", "~~~aa~~~~"),
        ('"quoted"', "~aaaaaa~", "~aaaaaa~"),
        ("e\u0301 e\u0301", "a~~a~", "a~~a~"),
        ("", "", ""),
    ],
)
def test_stripped_white_space_is_visible(content: str, raw: str, trimmed: str) -> None:
    seen = observe(chatml, [user(content)])
    assert drawn(seen) == f"<|user|>{raw}<|end|>\n"
    assert offsets(seen) == [*range(len(content))]
    assert drawn(observe(stripped, [user(content)])) == f"[{trimmed}]\n"


def test_white_space_that_the_template_writes_in_place_of_the_message_is_the_templates() -> None:
    def render(messages: Sequence[Message]) -> str:
        return " ".join(m["content"].strip("\n") + "\n" for m in messages)

    assert drawn(observe(render, [user("Hi\n"), user("Ho")])) == "aa\n bb\n"


def test_white_space_is_told_at_one_end_where_it_cannot_be_at_the_other() -> None:
    def render(messages: Sequence[Message]) -> str:
        return "".join("[" + m["content"].strip("\n") + "]" for m in messages)

    assert drawn(observe(render, [user("\nHi  ")])) == "[aaaa]"
    assert drawn(observe(render, [user("  Hi\n")])) == "[aaaa]"


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_escaped_characters_have_one_offset(ensure_ascii: bool) -> None:
    def render(messages: Sequence[Message]) -> str:
        return json.dumps(messages[0]["content"], ensure_ascii=ensure_ascii)

    text = 'é\nx "y" 👍'
    seen = observe(render, [user(text)])
    spelled = [len(json.dumps(c, ensure_ascii=ensure_ascii)) - 2 for c in text]
    assert offsets(seen) == np.repeat(np.arange(len(text)), spelled).tolist()
    assert seen.rendering.origins[[0, -1]].tolist() == [-1, -1]


def test_changed_case_has_a_leaf_and_no_offset() -> None:
    seen = observe(lambda m: m[0]["content"].upper(), [user("shout!")])
    assert drawn(seen) == "aaaaa" + "a"
    assert offsets(seen) == [-1] * 5 + [5]


def test_offsets_are_exact_in_long_runs_of_one_character() -> None:
    text = "Go: " + "x" * 1000 + "=" * 500 + "!"
    assert offsets(observe(chatml, [user(text)])) == [*range(len(text))]


def test_a_run_with_nothing_to_count_from_has_no_offsets() -> None:
    assert set(offsets(observe(chatml, [user("a" * 1000)]))) == {-1}


def _thinking(messages: Sequence[Message]) -> str:
    """Show the thoughts of the message between tags of the renderer's own."""
    text: str = messages[0]["content"]
    if "</think>" not in text:
        return f"<{text}>"
    thought, answer = text.split("</think>")
    thought = thought.replace("<think>", "").strip("\n")
    return "<<think>\n" + thought + "\n</think>\n\n" + answer.strip("\n") + ">"


def test_tags_that_a_template_looks_for_are_never_called_moved() -> None:
    seen = observe(_thinking, [assistant("<think>\nHm.\n</think>\n\nSo.")])
    assert seen.rendering.text == "<<think>\nHm.\n</think>\n\nSo.>"
    assert drawn(seen) == "<~~~~~~~\naaa\n~~~~~~~~\n\naaa>"


def test_a_branch_on_the_value_leaves_the_string_undetermined() -> None:
    def render(messages: Sequence[Message]) -> str:
        return "".join("<go>" if m["content"] == "go" else m["content"] for m in messages)

    seen = observe(render, [user("go"), user("Stay")])
    assert drawn(seen) == "<go>bbbb"
    assert seen.undetermined == {
        Leaf(0, "content"): "with another text there the rendering has another length"
    }
    assert seen.require([Leaf(1, "content")]) is seen.rendering
    with pytest.raises(ParityError, match=r"^message 0: cannot tell where .* 'content'") as raised:
        seen.require([Leaf(1, "content"), Leaf(0, "content")])
    assert raised.value.reason == "cannot_observe"


def test_a_branch_of_equal_length_leaves_the_string_undetermined() -> None:
    def render(messages: Sequence[Message]) -> str:
        text: str = messages[0]["content"]
        return ("yes:" if text == "go" else "no: ") + text

    seen = observe(render, [user("go")])
    assert drawn(seen) == "yes:go"
    assert seen.undetermined == {
        Leaf(0, "content"): "with another text there other text changes too"
    }


def test_an_id_that_the_renderer_looks_up_is_undetermined_and_the_rest_is_told() -> None:
    def render(messages: Sequence[Message]) -> str:
        name = {c["id"]: c["function"]["name"] for c in messages[0]["tool_calls"]}
        told = [f"{name[m['tool_call_id']]}: {m['content']}" for m in messages[1:]]
        return "|".join([*name.values(), *told])

    messages = [assistant("", tool_calls=[call("weather", {})]), tool("Sunny")]
    seen = observe(render, messages)
    name = Leaf(0, "tool_calls/0/function/name")
    shown = [seen.rendering.origin(at)[0] for at in range(len(seen.rendering.text))]
    assert shown == [name] * 7 + [None] + [name] * 7 + [None] * 2 + [Leaf(1, "content")] * 5
    values = {leaf.path for leaf in seen.undetermined if not leaf.is_key}
    assert values == {"tool_calls/0/id", "tool_call_id"}
    assert "raises KeyError" in seen.undetermined[Leaf(1, "tool_call_id")]


def test_arguments_that_the_renderer_parses_are_told() -> None:
    def render(messages: Sequence[Message]) -> str:
        function = messages[0]["tool_calls"][0]["function"]
        return json.dumps(json.loads(function["arguments"]), ensure_ascii=False)

    text = '{"city": "Zürich", "days": 20, "sure": true}'
    seen = observe(render, [assistant("", tool_calls=[call("weather", text)])])
    assert seen.rendering.text == text
    assert offsets(seen) == [*range(len(text))]
    assert seen.moved[[text.index("Z"), text.index("20"), text.index("city")]].all()


def test_keys_of_arguments_are_strings_of_their_own() -> None:
    def render(messages: Sequence[Message]) -> str:
        arguments = messages[0]["tool_calls"][0]["function"]["arguments"]
        return ", ".join(f"{key}={value}" for key, value in arguments.items())

    seen = observe(render, [assistant("", tool_calls=[call("f", {"a": "x", "b": "y"})])])
    path = "tool_calls/0/function/arguments"
    shown = [seen.rendering.origin(at)[0] for at in (0, 2, 5, 7)]
    assert shown == [
        Leaf(0, f"{path}/a", is_key=True),
        Leaf(0, f"{path}/a"),
        Leaf(0, f"{path}/b", is_key=True),
        Leaf(0, f"{path}/b"),
    ]


def test_a_key_that_would_become_another_is_undetermined() -> None:
    arguments = dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1)
    seen = observe(json.dumps, [assistant("", tool_calls=[call("f", arguments)])])
    assert seen.undetermined == {
        Leaf(0, f"tool_calls/0/function/arguments/{key}", is_key=True): "two keys became one"
        for key in arguments
    }


def test_two_strings_that_make_one_character_are_undetermined() -> None:
    def render(messages: Sequence[Message]) -> str:
        first, second = (m["content"] for m in messages)
        return "".join(chr(ord(a) + ord(b)) for a, b in zip(first, second, strict=True))

    seen = observe(render, [user("ab"), user("cd")])
    assert (seen.rendering.origins == -1).all()
    assert set(seen.undetermined) == {Leaf(0, "content"), Leaf(1, "content")}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_strings_are_numbered_as_in_the_trace(scenario: Scenario) -> None:
    before = copy.deepcopy(scenario.messages)
    seen = observe(lambda m: json.dumps(m, ensure_ascii=False), scenario.messages)
    assert seen.rendering.leaves == trace_messages(scenario.messages)[1]
    assert scenario.messages == before
    assert not seen.undetermined


def test_what_json_writes_of_a_conversation_is_told_to_the_last_character() -> None:
    [scenario] = [s for s in SCENARIOS if s.name == "tools-string"]
    seen = observe(lambda m: json.dumps(m, ensure_ascii=False), scenario.messages)
    shown: dict[Leaf, set[int]] = {}
    for at in range(len(seen.rendering.text)):
        leaf, offset = seen.rendering.origin(at)
        if leaf is not None:
            shown.setdefault(leaf, set()).add(offset)
    arguments = scenario.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert shown[Leaf(1, "tool_calls/0/function/arguments")] == set(range(len(arguments)))
    assert shown[Leaf(0, "content")] == set(range(len("Q0 weather?")))


def test_a_renderer_that_changes_by_itself_is_refused() -> None:
    clock = itertools.count()

    def render(messages: Sequence[Message]) -> str:
        return f"{next(clock)} {messages[0]['content']}"

    with pytest.raises(ParityError, match="changes from one rendering to the next") as raised:
        observe(render, [user("Hi")])
    assert raised.value.reason == "cannot_observe"


def test_what_the_renderer_raises_for_the_conversation_itself_is_passed_on() -> None:
    def render(messages: Sequence[Message]) -> Any:
        raise LookupError("no such role")

    with pytest.raises(LookupError, match="no such role"):
        observe(render, [user("Hi")])
