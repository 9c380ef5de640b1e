"""Data sets of which an audit finds exactly one thing: one for each kind of a finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, Fit, Policy
from lossmask.audit_data import add_about_tokens, add_leaks, add_repeats_within
from lossmask.auditing import Audit, Checks
from lossmask.data_files import RawRow
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.formats import to_normal
from lossmask.raw_rows import json_bytes
from lossmask.repeated_rows import Repeats, RowTexts, identity_of
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import WEATHER, assistant, call, system, tool, user
from tests.small_tokenizers import trained_to_merge, wordpiece

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_REASONING_ONLY = CHATML.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}",
)
TAGGED = CHATML.replace(
    "{{ m.content }}<|im_end|>\n",
    "{% if m.role == 'assistant' %}{{ m.content[:1] }}{% generation %}{{ m.content[1:] }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}",
)
PARTS = CHATML.replace(
    "{{ m.content }}",
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}"
    "{% endfor %}{% endif %}",
)
LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SPACED = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
Q, A = user("Q0 one two?"), assistant("A1 yes.")
STOPPED = [user("Q bye?"), assistant("A bye.")]
LONG_QUESTION = "Which of the two ships sailed around the cape of good hope first, and when?"


@dataclass(frozen=True, slots=True)
class Case:
    """A data set, how to encode it, the data to evaluate on; what cannot but be found besides."""

    rows: list[Any]
    template: str | None = CHATML
    policy: dict[str, Any] = field(default_factory=dict)
    fit: Fit | None = None
    evaluated: tuple[Any, ...] = ()
    tokenizer: str = "demo"
    tools: list[Any] | None = None
    besides: tuple[str, ...] = ()


def turns(*pairs: tuple[str, str]) -> list[Any]:
    """Return a conversation of questions and answers."""
    return [message for q, a in pairs for message in (user(q), assistant(a))]


EXCHANGES = turns(*((f"Q{k} go on?", f"A{k} here is some text.") for k in range(4)))

CASES = {
    "stop_never_trained": Case([[Q, A]], policy={"stop": "never"}),
    "eval_leak": Case([[Q, A]], evaluated=([Q, assistant("No.")],)),
    "near_eval_leak": Case(
        [[user(LONG_QUESTION), A]], evaluated=([user(LONG_QUESTION + " Say."), A],)
    ),
    "pad_is_stop": Case([[Q, A]], tokenizer="pad is eos"),
    "no_pad_token": Case([[Q, A]], tokenizer="no pad"),
    "bos_doubled": Case([[Q, A]], "<|endoftext|><|endoftext|>" + CHATML, tokenizer="with bos"),
    "control_token_in_content": Case(
        [[user("Q0 <|im_start|>?"), A]], policy={"control_tokens": "allow"}
    ),
    "duplicate_conversation": Case([[Q, A], [user("Q2?"), A], [Q, A]]),
    "duplicate_prompt": Case([[Q, A], [Q, assistant("No.")]]),
    "near_duplicate_prompt": Case([[user(LONG_QUESTION), A], [user(LONG_QUESTION + " Say."), A]]),
    "history_expanded": Case(
        [[Q, assistant("A1.", reasoning_content="R1"), user("Q2"), A]], LAST_REASONING_ONLY
    ),
    "no_stop_token": Case(
        [[Q, A], STOPPED],
        CHATML.replace("<|im_end|>\n", "{% if 'bye' in m.content %}<|im_end|>{% endif %}\n"),
        policy={"append_stop": "never"},
    ),
    "stop_appended": Case([{"prompt": "Q:", "completion": " A"}]),
    "generation_prompt_mismatch": Case(
        [[Q, A]], CHATML.replace("assistant\n{% endif", "assistant\n<go>\n{% endif")
    ),
    "header_respelled": Case(
        [[Q, A]],
        CHATML.replace(
            "%}<|im_start|>assistant\n{% endif", "%}{{ '\\n<|im_start|>assistant\\n' }}{% endif"
        ),
    ),
    "context_differs": Case(
        [[system("S0"), Q, A]], FIXTURE_TEMPLATES["system kept only while a user speaks last"]
    ),
    "boundary_straddle": Case(
        [{"prompt": "Is it?\n\n### A:\n", "completion": "\nYes<|im_end|>"}],
        policy={"boundary": "include"},
        tokenizer="bloom",
    ),
    "unknown_token": Case(
        [[user("yes"), assistant("yes 漢")]], SPACED, tokenizer="wordpiece"
    ),
    "content_dropped": Case(
        [[Q, assistant("hidden"), user("Q2"), A]],
        CHATML.replace("{{ m.content }}", "{{ m.content if m.content != 'hidden' }}"),
    ),
    "arguments_torn": Case(
        [[Q, assistant("", tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1}'}}]), user("Q2"), A]],
        CHATML.replace("{{ m.content }}", "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | list | join(',') }}{% endfor %}"),
    ),
    "nothing_generated": Case(
        [[Q, assistant(""), user("Q2"), A]],
        "{% for m in messages %}{% if m.content %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "no_prompt": Case(
        [[assistant("A0."), user("Q2"), A]],
        "{% if messages[0].role == 'assistant' and messages | length == 0 %}x{% endif %}"
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    ),
    "reasoning_dropped": Case([[Q, assistant("A1.", reasoning_content="R1")]]),
    "history_rewritten": Case(
        [[Q, assistant("A1."), user("Q2"), A]],
        CHATML.replace(
            "{{ m.content }}",
            "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}",
        ),
        policy={"history": "as_rendered"},
    ),
    "message_not_shown": Case(
        [[Q, A, assistant("hidden")]],
        CHATML.replace("{{ m.content }}", "{{ m.content if m.content != 'hidden' }}"),
        policy={"train_on": "all"},
    ),
    "role_trained": Case([[{**Q, "weight": 0.5}, A]]),
    "tags_differ": Case([[Q, A]], TAGGED, policy={"spans": "tags"}),
    "special_token_doubled": Case(
        [{"text": "<|endoftext|>Q: A<|im_end|>", "weights": [{"start": 15, "end": 27, "weight": 1}]}],
        tokenizer="adds bos",
    ),
    "system_dropped": Case(
        [[system("S0 brief"), Q, A]],
        CHATML.replace("{{ m.content }}", "{% if m.role != 'system' %}{{ m.content }}{% endif %}"),
    ),
    "message_dropped": Case(
        [[user("hidden"), A]],
        CHATML.replace("{{ m.content }}", "{{ m.content if m.content != 'hidden' }}"),
    ),
    "tool_calls_dropped": Case(
        [
            [
                Q,
                assistant("", train=False, tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
                user("Q2"),
                A,
            ]
        ]
    ),
    "tools_dropped": Case([[Q, A]], tools=[WEATHER]),
    "part_dropped": Case(
        [[user([{"type": "text", "text": "Q0"}, {"type": "image", "url": "x.png"}]), A]], PARTS
    ),
    "key_dropped": Case([[Q | {"name": "Ann"}, A]]),
    "text_trimmed": Case([[Q, assistant("A1. ")]], CHATML.replace("m.content }}", "m.content | trim }}")),
    "text_altered": Case(
        [[Q, assistant("A1.")]], CHATML.replace("m.content }}", "m.content | replace(' ', '') }}")
    ),
    "turns_dropped": Case([EXCHANGES], fit=Fit(40, "drop_turns")),
    "end_cut": Case([[*EXCHANGES, user("Q9 " * 20)]], fit=Fit(120, "keep_start")),
    "context_cut": Case([[user("Q " * 40), A]], fit=Fit(30, "keep_end")),
    "reply_cut": Case([EXCHANGES], fit=Fit(55, "keep_end"), besides=("context_cut",)),
    "example_dropped": Case(
        [[Q, assistant("A1.", reasoning_content="R1"), user("Q2 " * 20), A]],
        LAST_REASONING_ONLY,
        fit=Fit(40, "drop"),
    ),
}
"""Kind of a finding -> data of which it is found, and nothing else."""


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer by the name that a case has for it."""
    if name == "wordpiece":
        words = wordpiece("yes")
        words.add_special_tokens({"eos_token": "</s>", "pad_token": "[PAD]"})
        return words
    tokenizer = load_tokenizer(DEMO_MODEL)
    if name == "bloom":
        merged = trained_to_merge("Is it?\n\n### A:\n\nYes\n\n" * 9 + "Why?\n\n" * 30)
        merged.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "[PAD]"})
        return merged
    if name == "adds bos":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    if name == "pad is eos":
        tokenizer.pad_token = tokenizer.eos_token
    elif name == "no pad":
        tokenizer.pad_token = None
    elif name == "with bos":
        tokenizer.bos_token = "<|endoftext|>"
    return tokenizer


def audit_of(case: Case) -> Audit:
    """Audit the rows of a case, all in this process."""
    encoder = Encoder(
        tokenizer_of(case.tokenizer),
        Policy.from_mapping(case.policy),
        chat_template=case.template,
        fit=case.fit,
    )
    audit = Audit(Checks.of(encoder))
    for raw in raw_rows("data.jsonl", case.rows, case.tools):
        audit.add(raw, encoder.encode_row(raw.parse()))
    audit.close()
    others = RowTexts()
    for raw in raw_rows("eval.jsonl", list(case.evaluated), case.tools):
        others.add(raw.file, raw.line, identity_of(to_normal(raw.parse())))
    others.close()
    with Repeats() as repeats, Repeats() as evaluated:
        repeats.add(0, audit.texts)
        evaluated.add(0, others)
        add_repeats_within(audit, repeats.table())
        add_leaks(audit, repeats.table(), evaluated.table())
    tokenizer = encoder.tokenizer
    add_about_tokens(audit, pad=tokenizer.pad_token_id, stops=audit.checks.stop_ids)
    return audit


def raw_rows(file: str, rows: list[Any], tools: list[Any] | None = None) -> list[RawRow]:
    """Return rows as they are read: conversations, or whole rows."""
    whole = [{"messages": row} if isinstance(row, list) else row for row in rows]
    given = [row | ({"tools": tools} if tools else {}) for row in whole]
    return [RawRow(file, k + 1, k, json_bytes(row)) for k, row in enumerate(given)]
