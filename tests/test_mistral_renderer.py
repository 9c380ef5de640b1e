"""Mistral's tokenizers: prompts and answers have the ids that mistral-common itself gives."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lossmask import ConversationError, Encoder, Policy, TemplateError, TokenizerError
from tests import corpus
from tests.byte_renderers import code_of_docs
from tests.renderer_parity import Library, check
from tests.scenarios import SCENARIOS, WEATHER, Message, assistant, call, system, tool, user

mistral_common = pytest.importorskip("mistral_common", reason="pip install lossmask[mistral]")

from mistral_common.protocol.instruct.request import ChatCompletionRequest  # noqa: E402
from mistral_common.protocol.instruct.validator import ValidationMode  # noqa: E402
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy  # noqa: E402
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer  # noqa: E402

from lossmask.mistral_renderer import MistralRenderer  # noqa: E402  (it needs the library)

TWO_TURNS = [user("Q0 a?"), assistant("A1 b."), user("Q2 c?"), assistant("A3 d.")]
NEWER_SPECIALS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
]
"""What tokenizers from version 11 on list in their file."""

REFUSED = {
    "v1": "tools-dict tools-string tools-parallel tools-then-more null-content "
    "system-in-the-middle empty-answer",
    "v2": "tools-parallel system-in-the-middle empty-answer",
    "v3": "tools-parallel system-in-the-middle empty-answer",
    "v7": "system-in-the-middle empty-answer",
    "tekken": "tools-parallel system-in-the-middle empty-answer",
    "v13": "system-in-the-middle empty-answer",
}
"""Scenarios that mistral-common refuses in fine-tuning itself."""


@functools.cache
def shipped(name: str) -> Any:
    """Load a SentencePiece tokenizer that mistral-common ships."""
    return getattr(MistralTokenizer, name)()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistral")


def small_tekken(folder: Path, version: str, specials: list[str] | None) -> Any:
    """Cut the shipped tekken tokenizer down to 2,000 tokens, which load at once."""
    path = folder / f"tekken_{version}.json"
    if not path.exists():
        whole = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
        data = json.loads(whole.read_text(encoding="utf-8"))
        small: dict[str, Any] = {"vocab": data["vocab"][:1900]}
        counts = {"default_vocab_size": 2000, "default_num_special_tokens": 100}
        small["config"] = data["config"] | counts | {"version": version}
        if specials is not None:
            small["special_tokens"] = [
                {"rank": rank, "token_str": name, "is_control": True}
                for rank, name in enumerate(specials)
            ]
        path.write_text(json.dumps(small), encoding="utf-8")
    return MistralTokenizer.from_file(str(path))


def load(name: str, folder: Path) -> Any:
    if name == "tekken":
        return small_tekken(folder, "v3", None)
    if name == "v13":
        return small_tekken(folder, "v13", NEWER_SPECIALS)
    return shipped(name)


@functools.cache
def library(path: Path) -> Library:
    """Ask mistral-common for prompts in serving mode, for finished turns in fine-tuning mode."""
    modes = (ValidationMode.serving, ValidationMode.finetuning)
    loaded = {mode: MistralTokenizer.from_file(path, mode=mode) for mode in modes}
    pieces: Any = loaded[ValidationMode.serving].instruct_tokenizer.tokenizer

    def ids(messages: list[Message], tools: Any, mode: ValidationMode) -> list[int]:
        request: Any = ChatCompletionRequest.from_openai(messages, tools=tools, model="any")
        return list(loaded[mode].encode_chat_completion(request).tokens)

    def spell(token_id: int) -> bytes:
        if hasattr(pieces, "id_to_byte_piece"):
            return bytes(pieces.id_to_byte_piece(token_id, SpecialTokenPolicy.KEEP))
        piece: str = pieces.id_to_piece(token_id)
        is_byte = piece.startswith("<0x")
        return bytes([int(piece[3:5], 16)]) if is_byte else piece.replace("▁", " ").encode()

    return Library(
        lambda messages, tools: ids(messages, tools, ValidationMode.serving),
        lambda messages, tools: ids(messages, tools, ValidationMode.finetuning),
        lambda ids: b"".join(map(spell, ids)),
        [pieces.eos_id],
    )


def library_of(tokenizer: Any) -> Library:
    return library(Path(tokenizer.instruct_tokenizer.tokenizer.file_path))


@functools.cache
def encoder_of(path: Path) -> Encoder:
    return Encoder.from_renderer(MistralRenderer(MistralTokenizer.from_file(path)))


def encoder(name: str, folder: Path) -> Encoder:
    return encoder_of(Path(load(name, folder).instruct_tokenizer.tokenizer.file_path))


@pytest.mark.parametrize("name", REFUSED)
def test_every_scenario_is_what_inference_would_have(name: str, folder: Path) -> None:
    oracle = library_of(load(name, folder))
    cases = {
        s.name: check(encoder(name, folder), oracle, s.messages, s.tools)
        for s in SCENARIOS
        if "reasoning_content" not in str(s.messages)  # newer versions refuse what older drop
    }
    assert {n: case.detail for n, case in cases.items() if case.status == "wrong"} == {}
    refused = {n: case.detail for n, case in cases.items() if case.status == "refused"}
    assert set(refused) == set(REFUSED[name].split())
    assert {reason.split(":")[0] for reason in refused.values()} == {"template_error"}
    for scenario in SCENARIOS:
        if scenario.name in refused:
            with pytest.raises(Exception, match=r"."):
                oracle.full(scenario.messages, scenario.tools)


def test_the_ids_are_those_of_the_library(folder: Path) -> None:
    [example] = encoder("v3", folder).encode(TWO_TURNS)
    oracle = library_of(shipped("v3"))
    assert example.input_ids.tolist() == oracle.full(TWO_TURNS, None)
    assert example.text == "<s>[INST] Q0 a?[/INST] A1 b.</s>[INST] Q2 c?[/INST] A3 d.</s>"
    assert example.supervised_text == [" A1 b.</s>", " A3 d.</s>"]
    first, second = example.spans
    assert example.input_ids[: first.token_start].tolist() == oracle.prompt(TWO_TURNS[:1], None)
    assert example.input_ids[: second.token_start].tolist() == oracle.prompt(TWO_TURNS[:3], None)
    assert [int(example.input_ids[span.token_end - 1]) for span in example.spans] == [2, 2]
    assert encoder("v3", folder).stop_ids == {2}


@pytest.mark.parametrize("name", ["v2", "v3", "v7", "tekken"])
def test_tools_before_the_last_user_message_give_an_example_per_turn(
    name: str, folder: Path
) -> None:
    last, first = encoder(name, folder).encode(TWO_TURNS, [WEATHER])
    assert [span.message_index for span in last.spans] == [3]
    assert [span.message_index for span in first.spans] == [1]
    tools_in_last = last.text.index("[AVAILABLE_TOOLS]")
    assert last.text.index("A1 b.") < tools_in_last < last.text.index("Q2 c?")
    assert first.text.startswith("<s>[AVAILABLE_TOOLS]")
    tools = [WEATHER]
    oracle = library_of(load(name, folder))
    assert last.input_ids.tolist() == oracle.full(TWO_TURNS, tools)
    assert first.input_ids.tolist() == oracle.full(TWO_TURNS[:2], tools)


def test_tools_before_the_first_user_message_let_the_turns_share_one(folder: Path) -> None:
    [example] = encoder("v13", folder).encode(TWO_TURNS, [WEATHER])
    assert [span.message_index for span in example.spans] == [1, 3]


@pytest.mark.parametrize(("name", "examples"), [("v1", 1), ("v3", 2), ("v7", 1)])
def test_a_system_prompt_in_the_last_user_message_gives_an_example_per_turn(
    name: str, examples: int, folder: Path
) -> None:
    messages = [system("S be brief."), *TWO_TURNS]
    assert check(encoder(name, folder), library_of(load(name, folder)), messages).status == "exact"
    found = encoder(name, folder).encode(messages)
    assert len(found) == examples
    assert all("S be brief." in example.text for example in found)


@pytest.mark.parametrize("name", ["v3", "v7", "tekken"])
def test_control_tokens_that_are_typed_are_plain_text(name: str, folder: Path) -> None:
    messages = [user("Q0 [INST] </s>"), assistant("A1 [/INST] </s> [TOOL_CALLS] x")]
    assert check(encoder(name, folder), library_of(load(name, folder)), messages).status == "exact"
    [example] = encoder(name, folder).encode(messages)
    pieces = load(name, folder).instruct_tokenizer.tokenizer
    control = [i for i in example.input_ids.tolist() if pieces.is_special(i)]
    assert [pieces.id_to_piece(i) for i in control] == ["<s>", "[INST]", "[/INST]", "</s>"]
    assert example.supervised_text == [
        (" " if name != "tekken" else "") + "A1 [/INST] </s> [TOOL_CALLS] x</s>"
    ]


def test_a_call_its_result_and_the_answer(folder: Path) -> None:
    messages = [
        user("Q0 weather?"),
        assistant("", tool_calls=[call("weather", {"city": "Zürich"})]),
        tool("T2 sunny"),
        assistant("A3 it is sunny."),
    ]
    [example] = encoder("v7", folder).encode(messages, [WEATHER])
    assert example.supervised_text == [
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Zürich"}, "id": "call00001"}]'
        "</s>",
        " A3 it is sunny.</s>",
    ]
    [newer] = encoder("v13", folder).encode(messages, [WEATHER])
    assert newer.supervised_text == [
        '[TOOL_CALLS]weather[ARGS]{"city": "Zürich"}</s>',
        "A3 it is sunny.</s>",
    ]


def test_a_character_of_several_tokens_is_trained_whole(folder: Path) -> None:
    [example] = encoder("tekken", folder).encode([user("Q0 𒀀?"), assistant("𒀀")])
    span = example.spans[0]
    assert example.offsets[span.token_start : span.token_end].tolist() == [
        *[[span.start, span.start + 1]] * 4,
        [span.start + 1, span.start + 5],
    ]
    assert example.loss_mask[span.token_start :].all()


def test_reasoning_is_a_think_chunk_where_the_tokenizer_has_one(folder: Path) -> None:
    messages = [user("Q0 why?"), assistant("A1 so.", reasoning_content="R1 hm")]
    [example] = encoder("v13", folder).encode(messages)
    assert example.supervised_text == ["[THINK]R1 hm[/THINK]A1 so.</s>"]
    parts = [{"type": "thinking", "thinking": "R1 hm"}, {"type": "text", "text": "A1 so."}]
    [same] = encoder("v13", folder).encode([messages[0], {"role": "assistant", "content": parts}])
    oracle = library_of(load("v13", folder))
    full = oracle.full([messages[0], {"role": "assistant", "content": parts}], None)
    assert example.input_ids.tolist() == same.input_ids.tolist() == full


def test_reasoning_elsewhere_is_said_to_be_dropped_or_refused(folder: Path) -> None:
    messages = [user("Q0 why?"), assistant("A1 so.", reasoning_content="R1 hm")]
    outcome = encoder("v3", folder).encode_row({"messages": messages})
    if outcome.rejection is None:
        assert [f.kind for f in outcome.examples[0].findings] == ["reasoning_dropped"]
    else:  # newer versions
        assert "ThinkChunk" in outcome.rejection.detail


def test_keys_that_are_null_are_no_keys(folder: Path) -> None:
    nulls = {"name": None, "tool_calls": None, "tool_call_id": None}
    messages = [message | nulls for message in TWO_TURNS]
    [example] = encoder("v3", folder).encode(messages)
    [same] = encoder("v3", folder).encode(TWO_TURNS)
    assert example.input_ids.tolist() == same.input_ids.tolist()


def test_a_second_answer_in_a_row_has_no_prompt(folder: Path) -> None:
    messages = [user("Q0 a"), assistant("A1 b"), assistant("A2 c")]
    [example] = encoder("v3", folder).encode(messages)
    assert example.supervised_text == [" A1 b</s>"]
    [finding] = [f for f in example.findings if f.kind == "no_prompt"]
    assert finding.message_index == 2
    assert "Expected last role User or Tool" in finding.detail


@pytest.mark.parametrize(
    ("messages", "index", "words"),
    [
        (
            [*TWO_TURNS[:2], system("S2"), *TWO_TURNS[2:]],
            2,
            "Unexpected role 'system' after role 'assistant'",
        ),
        (
            [user("Q0"), assistant("", tool_calls=[{**call("f", {}), "id": "x"}])],
            1,
            "Tool call id was x but must be",
        ),
        (
            [user("Q0"), assistant("", tool_calls=[call("no name", {})])],
            1,
            "Function name was no name but must be",
        ),
        ([user("Q0"), assistant("")], 1, "must have either content or tool_calls, but not both"),
        (
            [{"role": "function", "content": "D0"}, *TWO_TURNS],
            0,
            "Unknown message role: function",
        ),
    ],
)
def test_what_the_library_refuses_is_refused_in_its_words(
    messages: list[Message], index: int, words: str, folder: Path
) -> None:
    with pytest.raises(TemplateError) as raised:
        encoder("v3", folder).encode(messages)
    assert words in str(raised.value)
    assert raised.value.message_index == index


def test_bad_tools_are_no_messages_fault(folder: Path) -> None:
    bad = {"type": "function", "function": {"name": "no name", "parameters": {}}}
    with pytest.raises(TemplateError, match="Function name was no name") as raised:
        encoder("v3", folder).encode(TWO_TURNS, [bad])
    assert raised.value.message_index is None


def test_an_answer_of_spaces_is_its_stop_token(folder: Path) -> None:
    [example] = encoder("v3", folder).encode([user("Q0"), assistant("  ")])
    assert example.input_ids.tolist() == library_of(shipped("v3")).full(
        [user("Q0"), assistant("  ")], None
    )
    assert example.supervised_text == ["</s>"]


@pytest.mark.parametrize("kind", ["images", "audios"])
def test_images_and_audio_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_image = SimpleNamespace(**{"tokens": [1], "images": [], "audios": [], kind: ["pixels"]})
    monkeypatch.setattr(MistralTokenizer, "encode_chat_completion", lambda *_: with_image)
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Q2"}]
    with pytest.raises(ConversationError, match="holds an image or audio") as raised:
        MistralRenderer(shipped("v3")).render([*TWO_TURNS[:2], user(parts)])
    assert (raised.value.reason, raised.value.message_index) == ("not_text", 2)


def test_the_validation_mode_of_the_given_tokenizer_does_not_matter() -> None:
    path = shipped("v3").instruct_tokenizer.tokenizer.file_path
    encoded = {
        tuple(MistralRenderer(MistralTokenizer.from_file(path, mode=mode)).render(TWO_TURNS))
        for mode in ValidationMode
    }
    assert len(encoded) == 1


def test_transformers_backend_is_taken_for_the_tokenizer_inside() -> None:
    backend = SimpleNamespace(tokenizer=shipped("v3"))  # MistralCommonBackend keeps it so
    assert MistralRenderer(backend).render(TWO_TURNS[:1]) == [
        *library_of(shipped("v3")).prompt(TWO_TURNS[:1], None)
    ]


def test_something_else_is_no_tokenizer_of_mistral() -> None:
    with pytest.raises(TokenizerError, match="expected a MistralTokenizer of mistral-common"):
        MistralRenderer(SimpleNamespace())


def test_a_renderer_survives_pickling() -> None:
    renderer = MistralRenderer(shipped("v3"))
    assert pickle.loads(pickle.dumps(renderer)).render(TWO_TURNS) == renderer.render(TWO_TURNS)


def test_the_example_of_the_docs_runs() -> None:
    [code] = [block for block in code_of_docs() if "MistralRenderer" in block]
    names: dict[str, Any] = {"Encoder": Encoder}
    exec(code, names)
    [example] = names["encoder"].encode(TWO_TURNS)
    assert example.supervised_text == [" A1 b.</s>", " A3 d.</s>"]


def test_the_policy_rules_here_too(folder: Path) -> None:
    path = shipped("v3").instruct_tokenizer.tokenizer.file_path
    renderer = MistralRenderer(MistralTokenizer.from_file(path))
    last_only = Encoder.from_renderer(renderer, Policy(train_on="last_assistant"))
    [example] = last_only.encode(TWO_TURNS, [WEATHER])
    assert example.supervised_text == [" A3 d.</s>"]
    as_rendered = Encoder.from_renderer(renderer, Policy(history="as_rendered"))
    [example] = as_rendered.encode(TWO_TURNS, [WEATHER])
    assert example.supervised_text == [" A1 b.</s>", " A3 d.</s>"]
    assert example.input_ids.tolist() == library_of(shipped("v3")).full(TWO_TURNS, [WEATHER])


@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_real_conversations_are_exact_or_refused(name: str, folder: Path) -> None:
    _none_is_wrong(Path(load("v7", folder).instruct_tokenizer.tokenizer.file_path), name, 2)


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_real_conversations_with_a_published_tokenizer(name: str) -> None:
    path = corpus.ROOT / "tokenizers" / "mistral-nemo-common" / "tekken.json"
    _none_is_wrong(path, name, 20)


def _none_is_wrong(path: Path, dataset: str, limit: int) -> None:
    cases = {
        row["id"]: check(encoder_of(path), library(path), row["messages"], row.get("tools"))
        for row in corpus.rows(dataset, limit=limit)
    }
    assert {i: case.detail for i, case in cases.items() if case.status == "wrong"} == {}
    refused = [case.detail for case in cases.values() if case.status == "refused"]
    assert [detail for detail in refused if not detail.startswith("template_error: ")] == []
