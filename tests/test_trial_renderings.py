"""Trials render as transformers does, once each, and survive what a template raises."""

from __future__ import annotations

import pytest

from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.rendering import ChatTemplate
from lossmask.trial_renderings import TOOLS, Trials, assistant, behind, shows, user
from tests.doctor_templates import SOUND

TOKENIZER = load_tokenizer(DEMO_MODEL)


def trials(template: str = SOUND, *, in_parts: bool = False) -> Trials:
    return Trials(ChatTemplate(TOKENIZER, template), {"given": 1}, in_parts=in_parts)


def test_a_conversation_is_rendered_as_by_transformers() -> None:
    rendered = trials("{{ given }}{{ more }}" + SOUND).render(
        [user()], tools=TOOLS, asked=True, variables={"more": 2}
    )
    assert rendered.text == "12" + TOKENIZER.apply_chat_template(
        [user()],
        tools=list(TOOLS),
        chat_template=SOUND,
        add_generation_prompt=True,
        tokenize=False,
    )


def test_each_conversation_is_rendered_once() -> None:
    made = trials()
    assert made.render([user()]) is made.render([user()])
    assert made.render([user()]) is not made.render([user()], asked=True)
    assert len(made.made) == 2


def test_what_a_template_raises_is_kept_as_text() -> None:
    rendered = trials("{{ raise_exception('never') }}").render([user()])
    assert (rendered.text, rendered.error) == (None, "TemplateError: never")


def test_memory_that_runs_out_is_no_answer_of_the_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: object, **options: object) -> str:
        raise MemoryError

    made = trials()
    monkeypatch.setattr(type(TOKENIZER), "apply_chat_template", fails)
    with pytest.raises(MemoryError):
        made.render([user()])


def test_contents_can_be_given_in_parts() -> None:
    rendered = trials(in_parts=True).render([user()])
    assert rendered.messages[0]["content"] == [{"type": "text", "text": "Where is Vega?"}]
    assert rendered.text == trials().render([user()]).text


def test_a_star_is_seen_in_any_case_and_its_sentence_ends_with_its_mark() -> None:
    assert shows("WHERE IS VEGA?", "Vega")
    assert not shows("where?", "Vega")
    text = "Vega? Near Altair.\n"
    assert text[behind(text, "Altair") :] == "\n"
    assert text[behind("Vega<", "Vega") :] == "? Near Altair.\n"
    assert behind(text, "Rigel") == -1
    assert assistant()["content"] == "Near Altair."
