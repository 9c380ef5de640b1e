"""A diagnosis is true of what transformers renders, for sound, faulty and published templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, TemplateError
from lossmask.diagnosis import TOPICS, Diagnosis, Rendered
from lossmask.doctor import diagnose
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.layout import Layout
from lossmask.no_template import NoTemplate
from tests import corpus
from tests.doctor_templates import SOUND, diagnosed
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import WEATHER, Message, assistant, call, system, tool, user

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")


def test_nothing_is_wrong_with_a_sound_template() -> None:
    found = diagnosed(SOUND)
    assert found.worst == "note"
    assert {fact.kind for fact in found.at_least("note")} == {"injection", "image_marked"}
    assert [topic for topic in TOPICS if found.of(topic)] == list(TOPICS)


def test_topics_that_are_not_asked_for_are_left_out() -> None:
    found = diagnosed(SOUND, "roles", "system")
    assert {fact.topic for fact in found.facts} == {"roles", "system"}
    assert [fact.topic for fact in found.facts] == sorted(
        (fact.topic for fact in found.facts), key=list(TOPICS).index
    )


def test_an_encoder_without_a_chat_template_is_refused() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    encoder = Encoder(tokenizer, layout=Layout("text"))
    encoder._setting = replace(encoder._setting, template=NoTemplate())
    with pytest.raises(TemplateError, match="no Jinja chat template to diagnose") as caught:
        diagnose(encoder)
    assert caught.value.reason == "no_jinja_template"


def test_variables_of_the_encoder_hold_for_every_rendering() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    template = "{% if polite %}Please. {% endif %}" + SOUND
    encoder = Encoder(tokenizer, chat_template=template, template_variables={"polite": True})
    found = diagnose(encoder, topics=["variables", "contents"])
    answer, read = found.find("answer_shown"), found.find("variables_read")
    assert answer is not None
    assert (answer.evidence[0].rendered.text or "").startswith("Please. <|im_start|>")
    assert read is not None
    assert read.sentence == "Further variables are read: polite (False changes the prompt)."


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_claims_about_templates_of_our_own_hold(name: str) -> None:
    tokenizer, template = load_tokenizer(DEMO_MODEL), FIXTURE_TEMPLATES[name]
    check_claims(tokenizer, template)


@pytest.mark.slow
@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.template_names()[::5])
def test_claims_about_published_templates_hold(name: str) -> None:
    check_claims(corpus.tokenizer_for(name), corpus.template_source(name))


def check_claims(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Hold what is said of a template against renderings of other conversations than it was told.

    The words are others, so that only transformers decides.
    """
    found = diagnose(Encoder(tokenizer, chat_template=template))
    assert json.loads(json.dumps(found.to_mapping())) == found.to_mapping()
    assert [fact.kind for fact in found.facts if f"`{fact.kind}`" not in PAGE] == []
    for rendered in _evidence(found):
        given = [dict(message) for message in rendered.messages]
        text = _render(tokenizer, template, given, rendered)
        assert text == rendered.text
    if found.find("needs_parts") is None:
        _check_contents(found, lambda m, t=None: _plainly(tokenizer, template, m, t))
        _check_turns(found, tokenizer, template)


def _evidence(found: Diagnosis) -> Iterator[Rendered]:
    for fact in found.facts:
        for evidence in fact.evidence:
            yield evidence.rendered


def _render(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[Message], how: Rendered
) -> str | None:
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=None if how.tools is None else list(how.tools),
            chat_template=template,
            add_generation_prompt=how.add_generation_prompt,
            tokenize=False,
            **dict(how.variables),
        )
    except Exception:
        return None
    return text


def _plainly(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    asked: bool = False,
) -> str | None:
    how = Rendered((), None, None, None if tools is None else tuple(tools), asked)
    return _render(tokenizer, template, messages, how)


def _check_contents(found: Diagnosis, render: Any) -> None:
    question, tools = user("Zebra?"), [WEATHER]
    calling = assistant("", tool_calls=[call("weather", {"city": "Quito"})])
    for slug, messages, given, word in (
        ("answer", [question, assistant("Yak.")], None, "yak."),
        ("question", [question, assistant("Yak.")], None, "zebra?"),
        ("reasoning", [question, assistant("Yak.", reasoning_content="Xerus")], None, "xerus"),
        (
            "inline_reasoning",
            [question, assistant("<think>\nXerus\n</think>\n\nYak.")],
            None,
            "xerus",
        ),
        ("call", [question, calling], tools, "quito"),
        ("tool_result", [question, calling, tool("Wombat")], tools, "wombat"),
        (
            "text_beside_call",
            [question, {**calling, "content": "Yak."}],
            tools,
            "yak.",
        ),
        ("name", [{**question, "name": "Vole"}, assistant("Yak.")], None, "vole"),
    ):
        text = render(messages, given)
        how = "refused" if text is None else "shown" if word in text.casefold() else "dropped"
        assert found.find(f"{slug}_{how}") is not None, (slug, how, text)
    declared = render([system("Tapir."), question, assistant("Yak."), user("Ibex?")], tools)
    if declared is not None:
        assert found.find("tools_refused") is None
        assert ("Look up the weather." in declared) == (found.find("tools_shown") is not None)
        assert ("weather" in declared) == (found.find("tools_dropped") is None)
    with_system = render([system("Tapir."), question, assistant("Yak.")])
    assert (with_system is None) == (found.find("system_refused") is not None)
    if with_system is not None:
        assert ("Tapir" in with_system) == (found.find("system_dropped") is None)


def _check_turns(found: Diagnosis, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    def render(messages: list[Message], asked: bool = False) -> str | None:
        return _plainly(tokenizer, template, messages, asked=asked)

    question, answer = user("Zebra?"), assistant("Yak.")
    prompt, whole = render([question], asked=True), render([question, answer])
    longer = render([question, answer, user("Ibex?")])
    if found.find("generation_prompt_mismatch") is not None:
        assert prompt is not None
        assert whole is not None
        assert not whole.startswith(prompt)
    if prompt is None or whole is None:
        return
    if found.find("every_prompt_is_prefix") is not None:
        assert whole.startswith(prompt)
        assert longer is None or longer.startswith(prompt)
    if found.find("history_kept") is not None and longer is not None:
        assert longer.startswith(whole)
    end = whole.rpartition("Yak.")[2]
    if found.find("stop_is_eos") is not None:
        assert str(tokenizer.eos_token) in end
    if found.find("no_stop") is not None:
        assert str(tokenizer.eos_token) not in end
    thinking = assistant("Yak.", reasoning_content="Xerus")
    if found.find("reasoning_dropped_later") is None and longer is not None:
        then, later = render([question, thinking]), render([question, thinking, user("Ibex?")])
        assert ("Xerus" in (then or "")) == ("Xerus" in (later or ""))
