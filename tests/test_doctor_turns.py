"""How a turn begins and ends is told, whatever the template does about it."""

from __future__ import annotations

import copy

import pytest

from lossmask import Encoder
from lossmask.doctor import diagnose
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from tests.doctor_templates import PROMPT, SOUND, diagnosed, difference, fact, verdicts

OPENED = SOUND.replace(PROMPT, PROMPT.replace("assistant\n", "assistant\n<think>"))
CLOSED = SOUND.replace(PROMPT, PROMPT.replace("assistant\n", "assistant\n<think></think>"))
END = "<|im_end|>\n{% endfor %}"


def ended(by: str) -> str:
    assert SOUND.count(END) == 1
    return SOUND.replace(END, by + "{% endfor %}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (OPENED, {"opens_think=note", "generation_prompt_mismatch=warning"}),
        (CLOSED, {"closes_think=note", "generation_prompt_mismatch=warning"}),
        (SOUND.replace(PROMPT, ""), {"no_generation_prompt=note", "text_before_answer=note"}),
        (
            SOUND + "{% if not add_generation_prompt %}[END]{% endif %}",
            {"ending_if_not_asked=note"},
        ),
        (
            "{% if add_generation_prompt %}!{% endif %}" + SOUND,
            {"generation_prompt_rewrites=warning", "generation_prompt_mismatch=warning"},
        ),
        (
            SOUND.replace(PROMPT, PROMPT.replace("assistant\n", "{{ messages[-1].role }}")),
            {"generation_prompt_mismatch=warning", "generation_prompt_varies=note"},
        ),
    ],
    ids=["opened", "closed", "none", "ending", "rewrites", "varies"],
)
def test_what_the_generation_prompt_does_is_told(template: str, expected: set[str]) -> None:
    assert difference(template, "generation_prompt") == expected


def test_the_generation_prompt_is_told_to_the_last_character() -> None:
    for template, prompt in ((SOUND, "assistant\n"), (OPENED, "assistant\n<think>")):
        found = fact(template, "generation_prompt", "generation_prompt")
        assert found.values == ("<|im_start|>" + prompt,)
    mismatch = fact(OPENED, "generation_prompt", "generation_prompt_mismatch")
    assert mismatch.values == ("<think>",)
    assert mismatch.sentence.endswith("With reasoning in the data it does.")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (ended("{{ '\\n' }}"), {"no_stop=warning"}),
        (ended("<|im_start|>{{ '\\n' }}"), {"stop_unknown=warning"}),
        (ended("{% if not loop.last %}<|im_end|>{% endif %}"), {"last_turn_not_stopped=warning"}),
        (ended("{% if loop.last %}<|im_end|>{% endif %}"), {"history_stopped_otherwise=note"}),
        (
            ended("{% if not m.tool_calls %}<|im_end|>{% endif %}{{ '\\n' }}"),
            {"call_not_stopped=warning"},
        ),
    ],
    ids=["nothing", "unknown", "history-only", "last-only", "answers-only"],
)
def test_how_a_turn_ends_is_told(template: str, expected: set[str]) -> None:
    assert difference(template, "stops") == expected


def test_the_token_that_ends_a_turn_is_named() -> None:
    assert fact(SOUND, "stops", "stop_is_eos").values == ("<|im_end|>",)
    unknown = fact(ended("<|im_start|>{{ '\\n' }}"), "stops", "stop_unknown")
    assert unknown.values == ("<|im_start|>",)


def test_a_stop_token_that_is_not_eos_is_known_if_it_is_named() -> None:
    template = ended("<|im_start|>{{ '\\n' }}")
    found = diagnosed(template, "stops", stops=("<|im_start|>",))
    assert verdicts(found) == {"stop_is_known": "ok"}


def test_without_the_models_tokenizer_only_what_is_written_is_told() -> None:
    found = diagnosed(SOUND, "stops", "tokens", "cost", is_stand_in=True)
    assert verdicts(found) == {"after_answer": "ok"}
    assert verdicts(diagnosed(ended("{{ '\\n' }}"), "stops", is_stand_in=True)) == {
        "after_answer": "warning"
    }


@pytest.mark.parametrize(
    ("special", "kind"),
    [
        ({"pad_token": "<|im_end|>"}, "pad_is_eos=note"),
        ({"pad_token": None}, "no_pad=note"),
        ({"eos_token": None}, "no_eos=warning"),
    ],
)
def test_how_pad_and_eos_relate_is_told(special: dict[str, str | None], kind: str) -> None:
    tokenizer = copy.deepcopy(load_tokenizer(DEMO_MODEL))
    for name, value in special.items():
        setattr(tokenizer, name, value)
    found = verdicts(diagnose(Encoder(tokenizer, chat_template=SOUND), topics=["stops"]))
    assert kind in {f"{name}={verdict}" for name, verdict in found.items()}


def test_a_pad_token_that_is_a_stop_token_is_told() -> None:
    tokenizer = copy.deepcopy(load_tokenizer(DEMO_MODEL))
    encoder = Encoder(tokenizer, chat_template=SOUND, stop_tokens=[str(tokenizer.pad_token)])
    assert "pad_is_stop" in verdicts(diagnose(encoder, topics=["stops"]))
