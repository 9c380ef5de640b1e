"""A template of which everything is as one would wish, and copies with one fault each."""

from __future__ import annotations

from functools import cache

from lossmask import Encoder
from lossmask.diagnosis import TOPICS, Diagnosis, Fact
from lossmask.doctor import diagnose
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer

SOUND = (
    "{%- if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{%- for m in messages %}"
    "<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}"
    "{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}{{ '\\n' }}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content or [] %}"
    "{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}{% endfor %}{% endif %}"
    '{% for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", '
    '"arguments": {% if c.function.arguments is string %}{{ c.function.arguments }}'
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADER = "<|im_start|>{{ m.role }}"
CONTENT = "{{ m.content }}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

_TOKENIZER = load_tokenizer(DEMO_MODEL)


@cache
def diagnosed(
    template: str, *topics: str, is_stand_in: bool = False, stops: tuple[str, ...] = ()
) -> Diagnosis:
    """Diagnose a template with the embedded tokenizer, on all topics if none are named."""
    encoder = Encoder(_TOKENIZER, chat_template=template, stop_tokens=stops)
    return diagnose(encoder, topics=topics or tuple(TOPICS), is_stand_in=is_stand_in)


def changed(old: str, new: str) -> str:
    """Return the sound template with one thing changed."""
    assert SOUND.count(old) == 1, old
    return SOUND.replace(old, new)


def kinds(template: str, *topics: str) -> dict[str, str]:
    """Return kind -> verdict of some topics, all if none are named."""
    return verdicts(diagnosed(template, *topics))


def verdicts(found: Diagnosis) -> dict[str, str]:
    return {fact.kind: fact.verdict for fact in found.facts}


def difference(template: str, *topics: str) -> set[str]:
    """Return what is found of a template that is not found of the sound one, kind=verdict."""
    sound, other = kinds(SOUND, *topics), kinds(template, *topics)
    return {f"{kind}={verdict}" for kind, verdict in other.items() if kind not in sound}


def fact(template: str, topic: str, kind: str) -> Fact:
    found = diagnosed(template, topic).find(kind)
    assert found is not None, kind
    return found
