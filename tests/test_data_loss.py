"""Every field that a template does not show is found, under the name of its loss."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Finding
from lossmask.embedded import DEMO_MODEL
from tests.scenarios import WEATHER, Message, assistant, call, system, tool, user

WHOLE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = WHOLE.replace(
    "{{ m.content }}", "{% if m.role != 'system' %}{{ m.content }}{% endif %}"
)
TRIMMED = WHOLE.replace("{{ m.content }}", "{{ m.content | trim }}")
SQUEEZED = WHOLE.replace("{{ m.content }}", "{{ m.content | replace(' ', '') }}")
SHOUTED = WHOLE.replace("{{ m.content }}", "{{ m.content | upper }}")
CALLS = WHOLE.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}",
)
PARTS = WHOLE.replace(
    "{{ m.content }}",
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}"
    "{% endfor %}{% endif %}",
)
Q, A = user("Q0 one two"), assistant("A1 yes.")
CALLED = assistant("", tool_calls=[call("weather", {"city": "Rome"})])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (WHOLE, [system("S0"), Q, A], []),
        (NO_SYSTEM, [system("S0 brief"), Q, A], [("system_dropped", 0, ["content"])]),
        (NO_SYSTEM, [system("   "), Q, A], [("text_trimmed", 0, ["content"])]),
        (TRIMMED, [user(" Q0\n"), A], [("text_trimmed", 0, ["content"])]),
        (TRIMMED, [Q, assistant("\n\nA1")], [("text_trimmed", 1, ["content"])]),
        (SQUEEZED, [Q, assistant("A1")], [("text_altered", 0, ["content"])]),
        (WHOLE, [Q | {"name": "Ann"}, A], [("key_dropped", 0, ["name"])]),
        (WHOLE, [Q, assistant("A1", note={"by": ["me"]})], [("key_dropped", 1, ["note/by/0"])]),
        (
            WHOLE,
            [Q, CALLED | {"train": False}, tool("T2"), assistant("A3")],
            [
                ("key_dropped", 1, ["tool_calls/0/id"]),
                ("tool_calls_dropped", 1, ["name", "arguments/city"]),
                ("key_dropped", 2, ["tool_call_id", "name"]),
            ],
        ),
        (
            CALLS,
            [Q, CALLED, tool("T2"), A],
            [
                ("key_dropped", 1, ["tool_calls/0/id"]),
                ("key_dropped", 2, ["tool_call_id", "name"]),
            ],
        ),
        (
            PARTS,
            [user([{"type": "text", "text": "Q0"}, {"type": "image", "url": "x.png"}]), A],
            [("part_dropped", 0, ["content/1"])],
        ),
        (
            WHOLE,
            [Q, assistant("A1", reasoning_content="R1", train=False), Q, A],
            [("reasoning_dropped", 1, ["reasoning_content"])],
        ),
        (
            NO_SYSTEM.replace("m.role != 'system'", "m.content != 'Q0 hm'"),
            [user("Q0 hm"), A],
            [("message_dropped", 0, ["content"])],
        ),
    ],
)
def test_what_the_template_does_not_show_is_found(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    expected: list[tuple[str, int, list[str]]],
) -> None:
    found = _findings(tokenizer, template, messages)
    assert [(f.kind, f.message_index) for f in found] == [(k, i) for k, i, _ in expected]
    for finding, (_, _, paths) in zip(found, expected, strict=True):
        named = finding.detail.partition(": ")[2].split(", ")
        assert len(named) == len(paths)
        assert all(name.endswith(f"{path}'") for name, path in zip(named, paths, strict=True))


def test_a_text_shown_in_capitals_is_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    kinds = {f.kind for f in _findings(tokenizer, SHOUTED, [Q, A])}
    assert kinds <= {"text_altered"}


def test_a_part_that_the_template_shows_as_a_placeholder_is_not_lost(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = PARTS.replace("{{ p.text }}", "{{ p.text or '[image]' }}")
    parts = user([{"type": "text", "text": "Q0"}, {"type": "image", "url": "x.png"}])
    assert _findings(tokenizer, template, [parts, A]) == []


def test_tools_that_the_template_ignores_are_found(tokenizer: PreTrainedTokenizerBase) -> None:
    [finding] = _findings(tokenizer, WHOLE, [Q, A], [WEATHER])
    assert (finding.kind, finding.message_index) == ("tools_dropped", -1)
    shows = "{{ tools | tojson }}" + WHOLE
    assert _findings(tokenizer, shows, [Q, A], [WEATHER]) == []


def _findings(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    tools: list[Any] | None = None,
) -> list[Finding]:
    [example] = Encoder(tokenizer, chat_template=template).encode(messages, tools)
    return list(example.findings)
