"""What was found out about a chat template: facts, each with what was tried and what came out.

In: renderings that were made. Out: a :class:`Diagnosis`, plain data that ``doctor`` fills,
``doctor_display`` draws, and ``to_mapping`` turns into JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lossmask.rendering import Message

Verdict = Literal["ok", "note", "warning", "error"]
"""``ok``: as one would wish. ``note``: good to know. ``warning``: changes what is trained, unless
it is known and dealt with. ``error``: conversations cannot be trained on with this template."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

TOPICS = {
    "parity": "Parity with inference",
    "history": "Rewriting of history",
    "generation_prompt": "Generation prompt",
    "stops": "End of a turn",
    "contents": "What is shown of a conversation",
    "tools": "Tools",
    "system": "System prompt",
    "roles": "Order of roles",
    "variables": "Variables and the clock",
    "tokens": "Control tokens",
    "cost": "Cost",
}
"""Topic -> its heading, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as transformers rendered it, or why it did not.

    Attributes:
        messages: What was rendered; roles in order tell it apart at a glance.
        text: What ``apply_chat_template(tokenize=False)`` returned, None if the template raised.
        error: What the template raised, None if it did not.
        tools: Tool schemas, None if none were given.
        add_generation_prompt: As for ``apply_chat_template``.
        variables: Further variables of the template.
    """

    messages: tuple[Message, ...]
    text: str | None
    error: str | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    add_generation_prompt: bool = False
    variables: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The conversation in a few words: ``user, assistant + reasoning, user``."""
        roles = ", ".join(map(_role_of, self.messages))
        asked = "; generation prompt asked for" if self.add_generation_prompt else ""
        with_tools = "; tools given" if self.tools else ""
        given = "".join(f"; {name}={value!r}" for name, value in self.variables)
        return roles + with_tools + asked + given

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON can hold: enough to render it again."""
        return {
            "messages": [dict(message) for message in self.messages],
            "tools": None if self.tools is None else list(self.tools),
            "add_generation_prompt": self.add_generation_prompt,
            "variables": dict(self.variables),
            "text": self.text,
            "error": self.error,
        }


def _role_of(message: Message) -> str:
    role = str(message.get("role"))
    parts = [role]
    if message.get("reasoning_content"):
        parts.append("reasoning")
    calls = message.get("tool_calls") or ()
    if calls:
        parts.append("call" if len(calls) == 1 else f"{len(calls)} calls")
    return " + ".join(parts)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A rendering that shows a fact, and where in it to look.

    Attributes:
        rendered: The rendering.
        start: First character that matters; of the error where there is no text.
        end: Behind the last one.
    """

    rendered: Rendered
    start: int = 0
    end: int | None = None

    @property
    def excerpt(self) -> str:
        """The characters that matter, or the error."""
        return (self.rendered.text or self.rendered.error or "")[self.start : self.end]

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "probe": self.rendered.label,
            "excerpt": self.excerpt,
            "start": self.start,
            **self.rendered.to_mapping(),
        }


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was found out.

    Attributes:
        topic: One of ``TOPICS``.
        kind: Stable slug: ``reasoning_dropped_later``.
        verdict: How much it matters.
        sentence: What was found, in one sentence.
        values: The tokens, variables, roles or numbers that it is about.
        evidence: Renderings that show it, the smallest first.
    """

    topic: str
    kind: str
    verdict: Verdict
    sentence: str
    values: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if self.topic not in TOPICS or self.verdict not in VERDICTS:
            raise ValueError(f"no such topic or verdict: {self.topic!r}, {self.verdict!r}")

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "topic": self.topic,
            "kind": self.kind,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "values": list(self.values),
            "evidence": [each.to_mapping() for each in self.evidence],
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found out about a template, with one tokenizer.

    Attributes:
        facts: By topic, in the order of ``TOPICS``.
        tokenizer: Name of the tokenizer.
        is_stand_in: Whether the tokenizer is only a stand-in: nothing is said of tokens then.
        renderings: How many different renderings were tried, besides those of the proof.
    """

    facts: tuple[Fact, ...]
    tokenizer: str
    is_stand_in: bool
    renderings: int

    @property
    def worst(self) -> Verdict:
        """The gravest verdict."""
        return max((fact.verdict for fact in self.facts), key=VERDICTS.index, default="ok")

    def of(self, topic: str) -> tuple[Fact, ...]:
        """Return the facts of a topic."""
        return tuple(fact for fact in self.facts if fact.topic == topic)

    def find(self, kind: str) -> Fact | None:
        """Return the fact of a kind, None if it was not found."""
        return next((fact for fact in self.facts if fact.kind == kind), None)

    def at_least(self, verdict: Verdict) -> tuple[Fact, ...]:
        """Return the facts with this verdict or a graver one, the gravest first."""
        least = VERDICTS.index(verdict)
        grave = [fact for fact in self.facts if VERDICTS.index(fact.verdict) >= least]
        return tuple(sorted(grave, key=lambda fact: -VERDICTS.index(fact.verdict)))

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "tokenizer": self.tokenizer,
            "is_stand_in": self.is_stand_in,
            "renderings": self.renderings,
            "worst": self.worst,
            "facts": [fact.to_mapping() for fact in self.facts],
        }
