"""Chat templates of our own, one per way in which published templates differ.

They stand in for the corpus on machines without it.
"""

from __future__ import annotations

_GENERATION_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
_CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>{{ {'name': c.function.name, 'arguments': "
    "c.function.arguments} | tojson }}</tool_call>{% endfor %}"
)

FIXTURE_TEMPLATES = {
    "chatml with tools": (
        _TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        + _CALLS
        + "<|im_end|>\n{% endfor %}"
        + _GENERATION_PROMPT
    ),
    "reasoning kept after the last user turn only": (
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        + _TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% set content = m.content or '' %}{% set reasoning = m.reasoning_content or '' %}"
        "{% if '</think>' in content %}{% set reasoning = content.split('</think>')[0]"
        ".split('<think>')[-1].strip('\\n') %}{% set content = content.split('</think>')[-1]"
        ".lstrip('\\n') %}{% endif %}{% if loop.index0 > ns.last %}<think>\n"
        "{{ reasoning.strip('\\n') }}\n</think>\n\n{% endif %}{{ content }}"
        + _CALLS
        + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        + _GENERATION_PROMPT
    ),
    "thinking opened by the generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "header written with the user turn": (
        "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content | trim }}"
        "<|im_start|>{% elif m.role == 'assistant' %}{{ m.content }}<|im_end|>"
        "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    ),
    "instruction brackets, system in the first user turn": (
        "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}"
        "{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
        "{% set text = '<<' ~ sys ~ '>>' ~ m.content if loop.first and sys else m.content %}"
        "{{ '[INST] ' + text.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}"
        "{{ ' ' ~ m.content ~ '<|im_end|>' }}{% else %}"
        "{{ m.content }}{% endif %}{% endfor %}"
    ),
    "macro and set block": (
        "{% macro turn(m) %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>"
        "{% endmacro %}"
        "{% set body %}{% for m in messages %}{{ turn(m) }}\n{% endfor %}{% endset %}{{ body }}"
        + _GENERATION_PROMPT
    ),
    "system kept only while a user speaks last": (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{% if messages[-1].role != 'assistant' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% else %}<|im_start|>"
        "{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + _GENERATION_PROMPT
    ),
    "generation tags and end of text after the last turn": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
    ),
    "plain text, one newline between": (
        "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
