"""The oracle for control tokens in messages, told by transformers and the tokenizer alone.

An attack is compared with its harmless twin: the same conversation with other letters where the
attack has its control tokens, one for one. Escaped, the two must be the same example: the same runs
at the same characters, the same control tokens at the same places, all of them those that the
template writes. Refused, they must differ in control tokens; allowed, the ids must be those that
the tokenizer gives. Nothing here asks lossmask who wrote a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, Example, LossmaskError, Policy
from tests.parity import Case, Oracle, Wrong, check
from tests.scenarios import Message

Tools = list[Any] | None


class Encoders(NamedTuple):
    """One encoder for each policy."""

    error: Encoder
    escape: Encoder
    allow: Encoder


def encoders(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> Encoders:
    """Return encoders that differ in what they do with control tokens."""
    return Encoders(
        Encoder(tokenizer, Policy(control_tokens="error"), chat_template=chat_template),
        Encoder(tokenizer, Policy(control_tokens="escape"), chat_template=chat_template),
        Encoder(tokenizer, Policy(control_tokens="allow"), chat_template=chat_template),
    )


def check_escaped(
    encoders: Encoders, attack: list[Message], harmless: list[Message], tools: Tools = None
) -> Case:
    """Encode an attack with ``control_tokens="escape"`` and hold it against its harmless twin.

    Args:
        encoders: For the policies.
        attack: A conversation that holds control tokens as text.
        harmless: The same with other characters for some, one for one.
        tools: Tool schemas.

    Returns:
        ``exact`` with the detail ``every id``, or ``control ids`` where the tokenizer leaves the
        oracle with those and the text that all spell; ``refused``; ``wrong``; or ``incomparable``
        where the template does not treat the two alike.
    """
    plain = encoders.error
    base = check(plain, harmless, tools)
    if base.status != "exact":
        return base._replace(status="incomparable")
    try:
        shown = _renderings(Oracle(plain, attack, tools), Oracle(plain, harmless, tools))
    except Exception as error:  # whatever the template raises
        return Case("incomparable", f"{type(error).__name__}: {error}")
    if any(len(text) != len(twin) for twin, text in shown.items()):
        return Case("incomparable", "the template does not show both in the same length")
    try:
        examples = encoders.escape.encode(attack, tools)
    except LossmaskError as error:
        return Case("refused", f"{error.reason}: {error}")
    try:
        expected = plain.encode(harmless, tools)
        if _straddles(examples) != _straddles(expected):
            return Case("incomparable", "a token spans the end of a prompt in one of them")
        _require(len(examples) == len(expected), f"{len(examples)} examples")
        details = {
            _Pair(plain, example, twin).check(shown)
            for example, twin in zip(examples, expected, strict=True)
        }
    except Wrong as error:
        return Case("wrong", str(error))
    return Case("exact", min(details))


def control_ids(encoder: Encoder) -> set[int]:
    """Return the ids of tokens flagged special and of stop tokens that are added tokens."""
    tokenizer = encoder.tokenizer
    named = set(tokenizer.all_special_tokens)
    return {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token_id in encoder.stop_ids or str(token) in named
    }


def _renderings(attack: Oracle, harmless: Oracle) -> dict[str, str]:
    """Return what transformers renders of the harmless twin -> of the attack."""
    count = len(attack.messages)
    keys = [(count, False), *((n, prompt) for n in attack.trained for prompt in (True,) if n)]
    keys += [(n + 1, False) for n in attack.trained]
    return {harmless.render(n, prompt=p): attack.render(n, prompt=p) for n, p in keys}


def check_refused(encoders: Encoders, attack: Attack) -> Case:
    """Encode an attack with ``control_tokens="error"``.

    Returns:
        ``exact`` if it was refused and the error names message and token, or if it was encoded and
        has no other control tokens than its harmless twin (its text is not shown); ``refused`` for
        another reason; ``wrong``; or ``incomparable``.
    """
    encoder = encoders.error
    try:
        shown = attack.renderings(encoder)
    except Exception as error:  # whatever the template raises
        return Case("incomparable", f"{type(error).__name__}: {error}")
    twins = {text: twin for twin, text in shown.items()}
    try:
        examples = encoder.encode(attack.messages, attack.tools)
    except LossmaskError as error:
        if error.reason != "control_token_in_content":
            return Case("refused", f"{error.reason}: {error}")
        injected = [t for t, twin in twins.items() if _differ(encoder, t, twin)]
        names = [name for name in _names(encoder) if repr(name) in str(error)]
        is_named = error.message_index in attack.written_in and bool(names)
        return Case("exact" if injected and is_named else "wrong", str(error))
    if any(example.text not in twins for example in examples):
        return Case("incomparable", "the example is not a rendering")
    wrong = [e.text for e in examples if _differ(encoder, e.text, twins[e.text])]
    return Case("wrong", f"accepted: {wrong}") if wrong else Case("exact", "nothing injected")


def check_allowed(encoders: Encoders, attack: Attack) -> Case:
    """Encode an attack with ``control_tokens="allow"``.

    Returns:
        ``exact`` if the ids are those that the tokenizer gives for the text and no answer is
        trained beyond a stop token; ``refused``; or ``wrong``.
    """
    encoder = encoders.allow
    try:
        examples = encoder.encode(attack.messages, attack.tools)
    except LossmaskError as error:
        return Case("refused", f"{error.reason}: {error}")
    for example in examples:
        ids = encoder.tokenizer(example.text, add_special_tokens=False, verbose=False)["input_ids"]
        if not _straddles([example]) and ids != example.input_ids.tolist():
            return Case("wrong", f"{example.input_ids.tolist()} instead of {ids}")
        for span in example.spans:
            run = example.input_ids[span.token_start : span.token_end].tolist()
            texts = [t for t in encoder.tokenizer.convert_ids_to_tokens(run)]
            ends = [k for k, token_id in enumerate(run) if token_id in encoder.stop_ids]
            if ends and ends != list(range(ends[0], len(run))):
                return Case("wrong", f"trained beyond a stop token: {texts}")
    return Case("exact")


def _differ(encoder: Encoder, text: str, twin: str) -> bool:
    """Return whether the tokenizer finds other control tokens in two texts."""
    control = control_ids(encoder)
    found = encoder.tokenizer([text, twin], add_special_tokens=False, verbose=False)["input_ids"]
    ids, twin_ids = ([i for i in each if i in control] for each in found)
    return ids != twin_ids


def _names(encoder: Encoder) -> list[str]:
    names: list[str] = encoder.tokenizer.convert_ids_to_tokens(sorted(control_ids(encoder)))
    return names


def _straddles(examples: Sequence[Example]) -> set[int]:
    findings = [finding for example in examples for finding in example.findings]
    return {f.message_index for f in findings if f.kind == "boundary_straddle"}


class _Pair:
    """An escaped example and its harmless twin."""

    def __init__(self, encoder: Encoder, example: Example, twin: Example) -> None:
        self.tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
        self.control = control_ids(encoder)
        self.added = self.tokenizer.added_tokens_decoder
        self.example, self.twin = example, twin

    def check(self, shown: dict[str, str]) -> str:
        example, twin = self.example, self.twin
        self._check_text(shown)
        runs, twin_runs = (
            [(s.message_index, s.start, s.end, s.stop) for s in each.spans]
            for each in (example, twin)
        )
        _require(runs == twin_runs, f"supervised runs {runs} instead of {twin_runs}")
        mask = np.zeros(len(example), bool)
        for span in example.spans:
            mask[span.token_start : span.token_end] = True
        _require(np.array_equal(example.loss_mask, mask), "the mask is not the spans")
        found, expected = (
            [i for i in each.input_ids.tolist() if i in self.control] for each in (example, twin)
        )
        names = self.tokenizer.convert_ids_to_tokens(found)
        _require(found == expected, f"the control tokens of {example.text!r} are {names}")
        self._check_spelling()
        return self._check_every_id()

    def _check_text(self, shown: dict[str, str]) -> None:
        text, twin = self.example.text, self.twin.text
        _require(len(text) == len(twin), "the texts differ in length")
        if twin in shown:
            _require(text == shown[twin], "the text is not what transformers renders")
        for span in self.example.spans:
            for rendered_twin, rendered in shown.items():
                if twin[: span.start] == rendered_twin:
                    _require(text[: span.start] == rendered, "the prompt is not the rendered one")

    def _check_spelling(self) -> None:
        """Require that ids spell the text run by run; white space may be swallowed or added."""
        edges = [0]
        for span in self.example.spans:
            edges += [span.token_start, span.token_end]
        ids = self.example.input_ids.tolist()
        for start, end in zip(edges, [*edges[1:], len(ids)], strict=True):
            spelled = self.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
            a, b = self._characters(start), self._characters(end)
            written = self.example.text[a:b]
            _require(
                "".join(spelled.split()) == "".join(written.split()),
                f"the ids spell {spelled!r}, not {written!r}",
            )

    def _characters(self, position: int) -> int:
        for span in self.example.spans:
            if position in (span.token_start, span.token_end):
                return span.start if position == span.token_start else span.end
        return 0 if position == 0 else len(self.example.text)

    def _check_every_id(self) -> str:
        """Compare with text tokenized piece by piece, where that gives the ids of the twin."""
        cuts = [s.start for s in self.example.spans if self._is_apart(s.message_index)]
        for rule in (self._piece, self._sentencepiece):
            if self._by_pieces(self.twin.text, cuts, rule) == self.twin.input_ids.tolist():
                ids = self._by_pieces(self.example.text, cuts, rule)
                _require(
                    ids == self.example.input_ids.tolist(),
                    f"the tokens are {self._names(self.example.input_ids.tolist())}, not "
                    f"{self._names(ids)}",
                )
                return "every id"
        return "control ids"

    def _is_apart(self, index: int) -> bool:
        kinds = {(f.kind, f.message_index) for f in self.example.findings}
        return ("boundary_straddle", index) in kinds

    def _names(self, ids: Sequence[int]) -> list[str]:
        names: list[str] = self.tokenizer.convert_ids_to_tokens(list(ids))
        return names

    def _by_pieces(self, text: str, cuts: Sequence[int], rule: Any) -> list[int]:
        """Tokenize what lies between the template's control tokens, each piece on its own."""
        ids: list[int] = []
        at = 0
        swallows = False
        for start, end, control in [*self._control_of_twin(cuts), (len(text), len(text), None)]:
            piece = text[at:start].lstrip() if swallows else text[at:start]
            ids += rule(piece, first=at == 0)
            if control is not None:
                ids.append(control)
                swallows = self.added[control].rstrip
            at = end
        return ids

    def _control_of_twin(self, cuts: Sequence[int]) -> Iterator[tuple[int, int, int | None]]:
        texts = {str(self.added[i]): i for i in self.control}
        longest_first = sorted(texts, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)))
        found = [(m.start(), m.end(), texts[m.group()]) for m in pattern.finditer(self.twin.text)]
        yield from sorted([*found, *((cut, cut, None) for cut in cuts)])

    def _piece(self, text: str, *, first: bool) -> list[int]:
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def _sentencepiece(self, text: str, *, first: bool) -> list[int]:
        """Tokenize without the dummy space that SentencePiece puts before text."""
        if first or not text:
            return self._piece(text, first=True)
        anchor = self._piece("\n", first=True)
        return self._piece("\n" + text, first=True)[len(anchor) :]


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise Wrong(detail)
