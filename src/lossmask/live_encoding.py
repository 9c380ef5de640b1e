"""One state of the live page -> what it shows: tokens, or what is wrong and where.

In: a row as JSON text, the source of a chat template, a policy as YAML text, further stop tokens.
Out: plain data for ``assets/web/live.js``. Runs in a process that may be lost (``live_worker``), as
all of these may be hostile, or only half typed.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pprint import pformat
from typing import Any, Literal, get_args

import yaml
from jinja2 import TemplateSyntaxError

from lossmask.attribution import Attributed, Author, attributed
from lossmask.conversation import ROLES
from lossmask.diagnosis import TOPICS
from lossmask.doctor import diagnose
from lossmask.encoder import Encoder, generation_stop_ids, load_tokenizer
from lossmask.errors import InputError, LossmaskError, PolicyError, TemplateError, TokenizerError
from lossmask.explanations import FINDINGS, REASONS
from lossmask.fit import Fit
from lossmask.formats import to_normal
from lossmask.instruction_styles import STYLES, stop_token_of, style_template
from lossmask.layout import Layout
from lossmask.outcome import Outcome, Rejection
from lossmask.policy import Policy
from lossmask.preparing import EncoderSource
from lossmask.proof import prove_once
from lossmask.raw_rows import RawRow
from lossmask.rendering import ChatTemplate
from lossmask.token_data import token_data
from lossmask.token_rules import TokenRules
from lossmask.truncating import encode_to_fit

Question = Literal["start", "tokens", "origins", "doctor", "copies"]
"""What the page asks: what to begin with; tokens; who wrote each character, and whether the
template is proven; what the template does; the state as a row and as Python."""

_ENCODERS = 8  # compiled and kept, one per template and policy
_POLICIES = {
    "every assistant message": "",
    "last assistant message": "train_on: last_assistant\n",
    "after the last user message": "train_on: last_turn\n",
    "all of the text": "train_on: all\n",
    "prompts a little": "weights:\n  prompt: 0.1\n",
    "no reasoning": "weights:\n  reasoning: 0\n",
    "tool calls only": "weights:\n  content: 0\n  reasoning: 0\n  stop: 0\n",
    "no stop tokens": "stop: never\n",
    "turns as the full text shows them": "history: as_rendered\n",
    "control tokens as text": "control_tokens: escape\n",
}
_CALL = {"type": "function", "function": {"name": "forecast", "arguments": {"city": "Lisbon"}}}
_ASKED = {"role": "user", "content": "Will I need an umbrella in Lisbon tomorrow?"}
_ANSWER = "Yes, take one: rain from noon, 14 °C. ☔"
_BEGINNINGS: tuple[dict[str, Any], ...] = (
    {
        "messages": [
            {"role": "system", "content": "You are a brief assistant."},
            _ASKED,
            {
                "role": "assistant",
                "reasoning_content": "The forecast will tell.",
                "content": "",
                "tool_calls": [_CALL],
            },
            {"role": "tool", "content": '{"sky": "rain from noon", "celsius": 14}'},
            {"role": "assistant", "reasoning_content": "Rain: yes.", "content": _ANSWER},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "You are a brief assistant."},
            _ASKED,
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": "Thanks!"},
            {"role": "assistant", "content": "Stay dry."},
        ]
    },
    {"messages": [_ASKED, {"role": "assistant", "content": _ANSWER}]},
)
"""What the page begins with: the first that the template shows all of."""


@dataclass(frozen=True, slots=True)
class State:
    """What stands in the page.

    Attributes:
        row: JSON.
        template: Source; None: as the command was started.
        policy: YAML; None: as the command was started.
        stops: Further stop tokens.

    Raises:
        InputError: A value is not of its type.
    """

    row: str
    template: str | None = None
    policy: str | None = None
    stops: tuple[str, ...] = ()

    @classmethod
    def from_mapping(cls, values: object) -> State:
        """Read what the page sent."""
        if not isinstance(values, Mapping) or not values.keys() <= {
            "row",
            "template",
            "policy",
            "stops",
        }:
            raise InputError("expected the keys row, template, policy, stops", reason="bad_request")
        row, stops = values.get("row"), values.get("stops", [])
        others = [values.get(name) for name in ("template", "policy")]
        if (
            not isinstance(row, str)
            or not all(other is None or isinstance(other, str) for other in others)
            or not isinstance(stops, list)
            or not all(isinstance(stop, str) for stop in stops)
        ):
            raise InputError(
                "row, template and policy are texts, stops is a list of texts", reason="bad_request"
            )
        return cls(row, values.get("template"), values.get("policy"), tuple(stops))


class LiveEncoding:
    """Answers what the page asks; keeps an encoder per template and policy.

    Args:
        source: Tokenizer, and template, policy and the like to begin with.
    """

    def __init__(self, source: EncoderSource) -> None:
        self.source = source
        self.tokenizer = load_tokenizer(source.tokenizer)
        self._stops = (*generation_stop_ids(source.tokenizer), *source.stop_tokens)
        self._encoders: OrderedDict[tuple[object, ...], Encoder] = OrderedDict()
        self._own_template: str | None = None
        self._layout = source.layout
        try:
            own = self._make(source.chat_template, source.policy, ())
        except TemplateError as error:
            if error.reason != "no_chat_template":
                raise  # a file that cannot be read, or does not compile: as of all commands
        else:
            self._own_template, self._layout = own.chat_template(), own.layout
            if isinstance(own.setting.template, ChatTemplate):
                self._stops = (*sorted(own.stop_ids),)  # with that of a style

    def answer(self, question: Question, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the page shows next.

        Raises:
            InputError: The page asked for something else, or in another form.
            MemoryError: There is too little memory.
        """
        if question not in get_args(Question):
            raise InputError(f"there is no question {question!r}", reason="bad_request")
        if question == "start":
            return self._start()
        state = State.from_mapping(given)
        if question == "doctor":
            return self._doctor(state)
        return self._copies(state) if question == "copies" else self._tokens(question, state)

    def _start(self) -> dict[str, Any]:
        """Return what the page begins with."""
        changed = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in _changed(self.source.policy, Policy()).items()
        }
        text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True) if changed else ""
        encodable = (json.dumps(row, ensure_ascii=False) for row in _BEGINNINGS)
        shown = (row for row in encodable if self._is_whole(row))
        return {
            "version": version("lossmask"),
            "tokenizer": self.source.tokenizer,
            "template": self._own_template or "",
            "policy": text,
            "row": next(shown, json.dumps(_BEGINNINGS[-1], ensure_ascii=False)),
            "roles": list(ROLES),
            "styles": [
                {
                    "name": name,
                    "source": style_template(name, tokenizer=self.tokenizer),
                    "stop": stop_token_of(name),
                }
                for name in STYLES
            ],
            "policies": [{"name": name, "text": text} for name, text in _POLICIES.items()],
            "findings": FINDINGS,
            "reasons": REASONS,
        }

    def _is_whole(self, row: str) -> bool:
        answer = self._tokens("tokens", State(row))
        return all(not each["findings"] for each in answer["examples"]) and "refusal" not in answer

    def _tokens(self, question: Question, state: State) -> dict[str, Any]:
        """Return the examples of a row, or why there are none; by ``origins`` with authors."""
        began = time.perf_counter()
        answer: dict[str, Any] = {"examples": []}
        try:
            row = RawRow("row", 1, 0, state.row.encode("utf-8", "surrogatepass")).parse()
            encoder = self._encoder(state)
            if question == "origins":
                template = encoder.setting.template
                if isinstance(template, ChatTemplate):
                    prove_once(template, encoder.setting.template_variables)
                answer |= _drawn_with_origins(attributed(encoder, row), encoder)
            else:
                normal = to_normal(row, encoder.layout)
                answer |= _drawn(encode_to_fit(normal, encoder.setting), normal)
        except LossmaskError as error:
            answer["refusal"] = refusal_of(error, state)
        answer["milliseconds"] = round(1000 * (time.perf_counter() - began), 2)
        return answer

    def _doctor(self, state: State) -> dict[str, Any]:
        """Return what was found out about the template, the gravest first."""
        try:
            found = diagnose(self._encoder(state))
        except LossmaskError as error:
            return {"refusal": refusal_of(error, state)}
        return {
            "renderings": found.renderings,
            "facts": [
                {
                    "topic": TOPICS[fact.topic],
                    "verdict": fact.verdict,
                    "sentence": fact.sentence,
                    "values": list(fact.values),
                    "evidence": [[each.rendered.label, each.excerpt] for each in fact.evidence],
                }
                for fact in found.at_least("ok")
            ],
        }

    def _copies(self, state: State) -> dict[str, Any]:
        """Return the row as a line of JSON, and Python that encodes it the same way."""
        try:
            row = RawRow("row", 1, 0, state.row.encode("utf-8", "surrogatepass")).parse()
            encoder = self._encoder(state)
        except LossmaskError as error:
            return {"refusal": refusal_of(error, state)}
        return {
            "row": json.dumps(row, ensure_ascii=False),
            "python": python_of(row, self.source, encoder, self._given_stops(state)),
        }

    def _given_stops(self, state: State) -> list[str | int]:
        """Return the stop tokens that an encoder does not find by itself."""
        own = {*generation_stop_ids(self.source.tokenizer), self.tokenizer.eos_token_id}
        return [*dict.fromkeys(stop for stop in (*self._stops, *state.stops) if stop not in own)]

    def _encoder(self, state: State) -> Encoder:
        """Return the encoder of a state, compiled when it is first asked for.

        Raises:
            PolicyError: The policy is not one.
            TemplateError: The template does not compile, or there is none.
            TokenizerError: The tokenizer does not have a stop token.
        """
        key = (state.template, state.policy, state.stops)
        if key not in self._encoders:
            policy = self.source.policy if state.policy is None else read_policy_text(state.policy)
            template = state.template
            if template is None or template == self._own_template:
                given: str | None = self.source.chat_template
            else:
                # what has no brace and no line's end would be a path; Jinja takes this one off
                given = template if "\n" in template else f"{template}\n"
            self._encoders[key] = self._make(given, policy, state.stops)
            while len(self._encoders) > _ENCODERS:
                self._encoders.popitem(last=False)
        self._encoders.move_to_end(key)
        return self._encoders[key]

    def _make(self, template: str | None, policy: Policy, stops: Sequence[str]) -> Encoder:
        """Make an encoder; what it proves waits for ``origins``, which nobody types against."""
        source = self.source
        return Encoder(
            self.tokenizer,
            policy,
            chat_template=template,
            stop_tokens=[*self._stops, *stops],
            template_variables=dict(source.template_variables),
            layout=self._layout,
            proof="off",
            fit=source.fit,
            fast=False,
        )


def read_policy_text(text: str) -> Policy:
    """Read a policy from YAML.

    Raises:
        PolicyError: It is not YAML, or not a policy.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise PolicyError(f"not YAML: {error.problem}", reason="bad_yaml") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"not YAML: {error}", reason="bad_yaml") from error
    return Policy.from_mapping({} if values is None else values)


def refusal_of(error: LossmaskError, state: State) -> dict[str, Any]:
    """Return an error as plain data: what, why, and in which part of the page on which line."""
    where, line = "conversation", None
    if isinstance(error, PolicyError):
        where, line = "policy", _line_of_policy(error, state.policy or "")
    elif isinstance(error, TokenizerError) and error.reason == "unknown_stop":
        where = "stops"
    elif isinstance(error.__cause__, json.JSONDecodeError):
        where, line = "row", error.__cause__.lineno
    elif error.reason == "broken_json":
        where = "row"
    elif isinstance(error, TemplateError):
        where, line = "template", line_of_template(error)
    refusal = Rejection.from_error(error)
    return _refusal(refusal, where, line)


def _refusal(rejection: Rejection, where: str, line: int | None) -> dict[str, Any]:
    return {
        "where": where,
        "line": line,
        "message": rejection.message_index,
        "reason": rejection.reason,
        "detail": rejection.detail,
    }


def _line_of_policy(error: PolicyError, text: str) -> int | None:
    """Return the 1-based line of the first key that is wrong."""
    cause = error.__cause__
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
        return cause.problem_mark.line + 1
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        return 1
    for key, _ in node.value:
        if key.value in values:
            try:
                Policy.from_mapping({key.value: values[key.value]})
            except PolicyError:
                return int(key.start_mark.line) + 1
    return None


def line_of_template(error: BaseException) -> int | None:
    """Return the 1-based line of the chat template at which an error arose, None if unknown."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TemplateSyntaxError):
            return cause.lineno
        lines = [
            line
            for frame, line in traceback.walk_tb(cause.__traceback__)
            if frame.f_code.co_filename in ("<template>", "<unknown>")
        ]
        if lines:
            return lines[-1]
        cause = cause.__cause__ or cause.__context__
    return None


def _drawn(
    outcome: Outcome, normal: Mapping[str, Any], authors: Sequence[Sequence[Author]] = ()
) -> dict[str, Any]:
    """Return examples as ``tokens.js`` draws them, or the refusal of truncation."""
    if outcome.rejection is not None:
        return {"refusal": _refusal(outcome.rejection, "conversation", None)}
    messages = normal.get("messages") or [{"role": "text"}] * len(normal.get("weights", [0]))
    known = authors or [()] * len(outcome.examples)
    return {
        "examples": [
            token_data(example, messages, authors=each)
            for example, each in zip(outcome.examples, known, strict=True)
        ]
    }


def _drawn_with_origins(found: Attributed, encoder: Encoder) -> dict[str, Any]:
    """Return examples with who wrote each character, and what decided about each token, as runs."""
    drawn = _drawn(found.outcome, found.normal, found.authors)
    for number, (example, each) in enumerate(
        zip(found.outcome.examples, drawn.get("examples", ()), strict=False)
    ):
        rules = TokenRules(encoder, found, number)
        reasons = (rules.rule(token).reason for token in range(len(example)))
        each["reasons"] = [[sum(1 for _ in run), reason] for reason, run in groupby(reasons)]
    return drawn


def python_of(
    row: Mapping[str, Any],
    source: EncoderSource,
    encoder: Encoder,
    stops: Sequence[str | int],
) -> str:
    """Return Python that encodes a row as the page does."""
    given: list[tuple[str, str]] = []
    if (template := encoder.setting.template.given) is not None:
        given.append(("chat_template", _lines_of(template)))
    if stops:
        given.append(("stop_tokens", repr(list(stops))))
    if source.template_variables:
        given.append(("template_variables", repr(dict(source.template_variables))))
    imports = ["Encoder", "Policy"]
    if encoder.layout != Layout():
        given.append(("layout", f"Layout.from_mapping({_changed(encoder.layout, Layout())!r})"))
        imports.append("Layout")
    if encoder.fit != Fit():
        given.append(("fit", f"Fit.from_mapping({_changed(encoder.fit, Fit())!r})"))
        imports.append("Fit")
    lines = [
        f"from lossmask import {', '.join(sorted({*imports} - {'Layout'}))}",
        *(["from lossmask.layout import Layout"] if "Layout" in imports else []),
        "",
        f"row = {pformat(dict(row), sort_dicts=False, width=96)}",
        "encoder = Encoder.from_pretrained(",
        f"    {source.tokenizer!r},",
        f"    Policy.from_mapping({_changed(encoder.policy, Policy())!r}),",
        *(f"    {name}={value}," for name, value in given),
        ")",
        "outcome = encoder.encode_row(row)",
        "print(outcome.rejection or outcome.examples[0].supervised_text)",
    ]
    return "\n".join(lines) + "\n"


def _changed(value: Policy | Layout | Fit, default: Policy | Layout | Fit) -> dict[str, Any]:
    """Return the keys and values that are not the default's."""
    usual = default.to_mapping()
    return {key: each for key, each in value.to_mapping().items() if each != usual[key]}


def _lines_of(text: str) -> str:
    """Return text as Python, a line for each of its lines."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return repr(text)
    return "\n".join(["(", *(f"        {line!r}" for line in lines), "    )"])
