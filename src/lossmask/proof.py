"""Two independent derivations of who wrote which character, held against each other.

In: a chat template. Out: a :class:`Proof`, or an error that says where the derivations disagree. A
few conversations are rendered and traced through the template (``rendering``), and observed from
outside (``perturbation``), which calls transformers alone; both must tell the same.

A template is proven once. The proof is remembered in the process and on disk (``remembered``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from lossmask.errors import ParityError, TemplateError
from lossmask.perturbation import Observation, observe
from lossmask.probes import PROBES
from lossmask.remembered import recall, remember
from lossmask.rendering import ChatTemplate, Message
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import COARSE, Origins, leaf_of

_CONTEXT = 20  # characters of text shown on either side of a disagreement
_DERIVATION = (  # the modules whose work a proof is about
    "rendering",
    "template_environment",
    "template_tail",
    "look_ahead",
    "traced_text",
    "traced_formatting",
    "perturbation",
    "moved_text",
    "replacements",
    "proof",
    "probes",
)
_proven: dict[str, Proof | ParityError] = {}
_keys: WeakKeyDictionary[ChatTemplate, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared to prove one template.

    Attributes:
        rendered: Probes that the template renders, with and without generation prompt.
        skipped: Probes that it does not render, or that cannot be traced: a conversation like them
            is refused when it comes.
        characters: Characters seen to move with the string that they are traced to.
        undetermined: Strings that only the trace speaks of, ``probe: message path``.
    """

    rendered: int
    skipped: int
    characters: int
    undetermined: tuple[str, ...]


def prove_once(
    template: ChatTemplate, template_variables: Mapping[str, Any] | None = None
) -> Proof:
    """Prove a template unless that was done before, by this process or another.

    Raises:
        ParityError: The derivations disagree, now or when it was tried before.
    """
    key = _known_key(template, template_variables or {})
    known = _proven.get(key)
    if isinstance(known, ParityError):
        raise ParityError(known.detail, reason=known.reason)
    if known is None:
        known = _recall(key)
        if known is None:
            try:
                known = prove_template(template, template_variables)
            except ParityError as error:
                _proven[key] = error
                raise
            remember("proofs", key, asdict(known))
        _proven[key] = known
    return known


def prove_template(
    template: ChatTemplate, template_variables: Mapping[str, Any] | None = None
) -> Proof:
    """Run the probes through both derivations.

    Raises:
        ParityError: They disagree; names the probe, the character and what each says.
    """
    rendered = skipped = characters = 0
    undetermined: list[str] = []
    for probe in PROBES:
        for messages, add_generation_prompt in probe.renderings():
            try:
                observed = prove(
                    template,
                    messages,
                    tools=probe.tools,
                    add_generation_prompt=add_generation_prompt,
                    template_variables=template_variables,
                )
            except TemplateError:
                skipped += 1
                continue
            except ParityError as error:
                raise ParityError(
                    f"this chat template cannot be trusted: in the probe {probe.name!r}, {error}",
                    reason=error.reason,
                ) from error
            rendered += 1
            characters += int(observed.moved.sum())
            undetermined += [
                f"{probe.name}: {leaf.message_index} {leaf.path}"
                for leaf in observed.undetermined
                if not leaf.is_key
            ]
    return Proof(rendered, skipped, characters, tuple(sorted(set(undetermined))))


def prove(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Any] | None = None,
    add_generation_prompt: bool = False,
    template_variables: Mapping[str, Any] | None = None,
) -> Observation:
    """Derive one rendering twice and require that both agree.

    Args:
        template: The chat template.
        messages: A conversation.
        tools: As for ``apply_chat_template``.
        add_generation_prompt: As for ``apply_chat_template``.
        template_variables: As for ``apply_chat_template``.

    Returns:
        What perturbation showed.

    Raises:
        TemplateError: The template raises, or cannot be traced.
        ParityError: The derivations disagree, or the text changes from one rendering to the next.
    """
    traced = template.render(
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        template_variables=template_variables,
    )
    tokenizer, variables = template.tokenizer, dict(template_variables or {})
    seen = tokenizer.apply_chat_template(
        list(messages), chat_template="{{ messages | tojson }}", tokenize=False, **variables
    )

    def render(changed: Sequence[Message]) -> str:
        text: str = tokenizer.apply_chat_template(
            list(changed),
            tools=tools,
            chat_template=template.given,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **variables,
        )
        return text

    observed = observe(render, json.loads(seen))
    compare(traced, observed)
    return observed


def compare(traced: Rendering, observed: Observation) -> None:
    r"""Require that tracing and perturbing tell the same about every character they both speak of.

    A character that moved with a string is traced to that string, and to the same offset where
    both tell one. A character traced to one that was replaced did move, unless the string is
    undetermined; of several characters that one became (``\n`` in JSON), or that only the
    string as a whole is traced to, at least one did.

    Args:
        traced: From ``ChatTemplate.render``, n characters.
        observed: From ``observe``, of the same messages as the template sees them.

    Raises:
        ParityError: They do not agree; names the character, the message and what each says.
    """
    other = observed.rendering
    if traced.text != other.text or traced.leaves != other.leaves:
        raise ParityError(
            "the two derivations are not about the same conversation or rendering",
            reason="derivations_disagree",
        )
    wrong = _moved_elsewhere(traced, observed)
    if wrong.size:
        raise _at(int(wrong[0]), traced, other, "moved with another string than it is traced to")
    wrong = _did_not_move(traced, observed)
    if wrong.size:
        raise _at(int(wrong[0]), traced, other, "did not move with the string it is traced to")


def _moved_elsewhere(traced: Rendering, observed: Observation) -> npt.NDArray[np.intp]:
    mine, theirs = traced.origins, observed.rendering.origins
    other_leaf = leaf_of(mine) != leaf_of(theirs)
    exact = (mine & COARSE != COARSE) & (theirs & COARSE != COARSE)
    return np.flatnonzero(observed.moved & (other_leaf | (exact & (mine != theirs))))


def _did_not_move(traced: Rendering, observed: Observation) -> npt.NDArray[np.intp]:
    """Return the starts of runs of one origin that should have moved and did not."""
    starts = np.flatnonzero(np.diff(traced.origins, prepend=np.int64(-9)))
    if not starts.size:
        return starts
    origin = traced.origins[starts]
    moved = np.logical_or.reduceat(observed.moved, starts)
    words = np.array([character.isalnum() for character in traced.text])
    is_word = np.logical_or.reduceat(words, starts)
    return starts[_was_replaced(origin, is_word, observed) & ~moved]


def _was_replaced(
    origins: Origins, is_word: npt.NDArray[np.bool_], observed: Observation
) -> npt.NDArray[np.bool_]:
    """Return whether another character was put where each origin points to.

    Of a leaf as a whole that is said where the text in question has letters or digits, and any
    character of the leaf was replaced.
    """
    leaf, offset = leaf_of(origins), origins & COARSE
    answer = np.zeros(len(origins), bool)
    for number in np.unique(leaf[leaf >= 0]).tolist():
        flags = observed.replaced[number]
        own = leaf == number
        answer[own] = np.append(flags, flags.any())[np.minimum(offset[own], len(flags))]
    answer &= (offset != COARSE) | is_word
    return answer


def _at(position: int, traced: Rendering, observed: Rendering, what: str) -> ParityError:
    start, stop = max(0, position - _CONTEXT), position + _CONTEXT
    before, after = traced.text[start:position], traced.text[position:stop]
    mine, theirs = traced.origin(position)[0], observed.origin(position)[0]
    concerned = mine or theirs
    return ParityError(
        f"character {position}, between {before!r} and {after!r}, {what}: the trace says "
        f"{_says(traced, position)}, perturbation says {_says(observed, position)}",
        reason="derivations_disagree",
        message_index=None if concerned is None else concerned.message_index,
    )


def _says(rendering: Rendering, position: int) -> str:
    leaf, offset = rendering.origin(position)
    if leaf is None:
        return "the template wrote it"
    place = "somewhere in" if offset < 0 else f"character {offset} of"
    return f"it is {place} {leaf.path!r} of message {leaf.message_index}"


def _known_key(template: ChatTemplate, template_variables: Mapping[str, Any]) -> str:
    """Return :func:`_key`, found anew only if something that decides over it has changed."""
    tokenizer = template.tokenizer
    decisive = (
        template.given,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        repr(template_variables),
        _versions(),
    )
    known = _keys.get(template)
    if known is None or known[0] != decisive:
        known = _keys[template] = decisive, _key(template, template_variables)
    return known[1]


def _key(template: ChatTemplate, template_variables: Mapping[str, Any]) -> str:
    """Return a hash of all that decides over the proof."""
    parts = {
        "template": [template.given, template.tokenizer.chat_template],
        "special_tokens": template.tokenizer.special_tokens_map,
        "variables": template_variables,
        "versions": _versions(),
    }
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    """Return what the derivations are made of: with any other a proof has to be made again."""
    code = hashlib.sha256()
    for name in _DERIVATION:
        with suppress(OSError):  # installed without sources: the version has to do
            code.update(resources.files("lossmask").joinpath(f"{name}.py").read_bytes())
    return (code.hexdigest(), *map(version, ("lossmask", "transformers", "jinja2")))


def _recall(key: str) -> Proof | None:
    """Return a remembered proof, None if there is none or it is not what was written."""
    content = recall("proofs", key)
    if content is None:
        return None
    try:
        return Proof(**{**content, "undetermined": tuple(content["undetermined"])})
    except (TypeError, KeyError):
        return None
