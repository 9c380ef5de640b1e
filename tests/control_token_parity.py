"""The oracle for control tokens in messages, told by transformers and the tokenizer alone.

An attack is compared with its harmless twin: the same conversation with other letters where the
attack has its control tokens, one for one. Escaped, the two must be the same example: the same runs
at the same characters, the same control tokens at the same places, all of them those that the
template writes. Refused, the two must differ in control tokens. Allowed, the ids must be those that
the tokenizer gives. Nothing here asks lossmask who wrote a character.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, Example, LossmaskError, Policy
from tests.parity import Case, Oracle, Wrong, bare, check, require
from tests.scenarios import Message


class Attack(NamedTuple):
    """A conversation with control tokens as text, in the messages ``written_in``.

    ``harmless`` is the same with another letter for each character of theirs.
    """

    name: str
    messages: list[Message]
    harmless: list[Message]
    written_in: tuple[int, ...]
    tools: list[Any] | None = None


class Encoders(NamedTuple):
    """One encoder for each policy."""

    error: Encoder
    escape: Encoder
    allow: Encoder


def encoders(
    tokenizer: PreTrainedTokenizerBase, template: str, stops: Sequence[str] = ()
) -> Encoders:
    """Return encoders that differ in what they do with control tokens."""
    policies = [Policy(control_tokens=name) for name in ("error", "escape", "allow")]
    return Encoders(
        *(Encoder(tokenizer, p, chat_template=template, stop_tokens=stops) for p in policies)
    )


def control_ids(encoder: Encoder) -> set[int]:
    """Return the ids of tokens flagged special and of stop tokens that are added tokens.

    Not the one that stands for characters the vocabulary does not have.
    """
    tokenizer = encoder.tokenizer
    named = set(tokenizer.all_special_tokens)
    unknown = unknown_ids(tokenizer)
    return {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if (token.special or token_id in encoder.stop_ids or str(token) in named)
        and token_id not in unknown
    }


def unknown_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the id that stands for characters the vocabulary does not have, if it has such."""
    ids = tokenizer("\U000f1234", add_special_tokens=False)["input_ids"]
    return {tokenizer.unk_token_id} & set(ids)


def check_escaped(encoders: Encoders, attack: Attack) -> Case:
    """Encode an attack with ``control_tokens="escape"`` and hold it against its harmless twin.

    Returns:
        ``exact`` with the detail ``every id``, or ``control ids`` where the tokenizer leaves the
        oracle with those and the text that all spell; ``refused``; ``wrong``; or ``incomparable``
        where the template does not treat the two alike.
    """
    base = check(encoders.error, attack.harmless, attack.tools)
    shown = _renderings(encoders.error, attack)
    if base.status != "exact" or any(len(text) != len(twin) for twin, text in shown.items()):
        return Case("incomparable", base.detail)
    try:
        examples = encoders.escape.encode(attack.messages, attack.tools)
    except LossmaskError as error:
        return Case("refused", f"{error.reason}: {error}")
    twins = encoders.error.encode(attack.harmless, attack.tools)
    if _straddles(examples) != _straddles(twins):
        return Case("incomparable", "a token spans the end of a prompt in one of them")
    try:
        require(len(examples) == len(twins), f"{len(examples)} examples, not {len(twins)}")
        pairs = zip(examples, twins, strict=True)
        details = {_Pair(encoders.error, *pair).check(shown) for pair in pairs}
    except Wrong as error:
        return Case("wrong", str(error))
    return Case("exact", min(details))


def check_refused(encoders: Encoders, attack: Attack) -> Case:
    """Encode an attack with ``control_tokens="error"``.

    Returns:
        ``exact`` if it was refused rightly and the error names message and token, or was encoded
        rightly, having no other control tokens than its twin; ``refused`` for another reason;
        ``wrong``; or ``incomparable``.
    """
    encoder = encoders.error
    shown = _renderings(encoder, attack)
    injected = {text for twin, text in shown.items() if _differ(encoder, text, twin)}
    try:
        examples = encoder.encode(attack.messages, attack.tools)
    except LossmaskError as error:
        if error.reason != "control_token_in_content":
            return Case("refused", f"{error.reason}: {error}")
        names = encoder.tokenizer.convert_ids_to_tokens(sorted(control_ids(encoder)))
        is_named = error.message_index in attack.written_in and any(
            repr(name) in error.detail for name in names
        )
        return Case("exact" if injected and is_named else "wrong", f"refused: {error}")
    texts = {example.text for example in examples}
    if not texts <= set(shown.values()):
        return Case("incomparable", "the example is not a rendering")
    return Case("wrong" if texts & injected else "exact", "accepted")


def check_allowed(encoders: Encoders, attack: Attack) -> Case:
    """Encode an attack with ``control_tokens="allow"``.

    Returns:
        ``exact`` if the ids are those that the tokenizer gives for the text and no answer is
        trained beyond a stop token; ``refused``, for a stop token only if an answer holds it; or
        ``wrong``.
    """
    encoder = encoders.allow
    try:
        examples = encoder.encode(attack.messages, attack.tools)
    except LossmaskError as error:
        is_answer = error.message_index in attack.written_in and any(
            attack.messages[index]["role"] == "assistant" for index in attack.written_in
        )
        status = "refused" if is_answer or error.reason != "stop_inside" else "wrong"
        return Case(status, f"{error.reason}: {error}")
    for example in examples:
        if not _straddles([example]):
            ids = _ids(encoder.tokenizer, example.text)
            if ids != example.input_ids.tolist():
                return Case("wrong", f"{example.input_ids.tolist()} instead of {ids}")
        for span in example.spans:
            run = example.input_ids[span.token_start : span.token_end].tolist()
            ends = [k for k, token_id in enumerate(run) if token_id in encoder.stop_ids]
            if ends and ends != list(range(ends[0], len(run))):
                return Case("wrong", f"{example.text[span.start : span.end]!r} goes on at a stop")
    return Case("exact")


def _renderings(encoder: Encoder, attack: Attack) -> dict[str, str]:
    """Return what transformers renders of the harmless twin -> of the attack."""
    oracle = Oracle(encoder, attack.messages, attack.tools)
    twin = Oracle(encoder, attack.harmless, attack.tools)
    keys = {(len(oracle.messages), False)}
    keys.update((n + 1 - prompt, bool(prompt)) for n in oracle.trained for prompt in (0, 1))
    found = {}
    for count, prompt in sorted(keys):
        try:
            found[twin.render(count, prompt=prompt)] = oracle.render(count, prompt=prompt)
        except Exception:  # whatever the template raises: it shows nothing then
            continue
    return found


def _differ(encoder: Encoder, text: str, twin: str) -> bool:
    """Return whether the tokenizer finds other control tokens in two texts."""
    control = control_ids(encoder)
    ids, twin_ids = (
        [i for i in _ids(encoder.tokenizer, each) if i in control] for each in (text, twin)
    )
    return ids != twin_ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, **options)
    ids: list[int] = encoded["input_ids"]
    return ids


def _straddles(examples: Sequence[Example]) -> set[int]:
    findings = [finding for example in examples for finding in example.findings]
    return {f.message_index for f in findings if f.kind == "boundary_straddle"}


class _Pair:
    """An escaped example and its harmless twin."""

    def __init__(self, encoder: Encoder, example: Example, twin: Example) -> None:
        self.tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
        self.control = control_ids(encoder)
        self._unknown = unknown_ids(encoder.tokenizer)
        self.added = self.tokenizer.added_tokens_decoder
        self.example, self.twin = example, twin

    def check(self, shown: dict[str, str]) -> str:
        example, twin = self.example, self.twin
        self._check_text(shown)
        runs, twin_runs = (
            [(s.message_index, s.start, s.end, s.stop) for s in each.spans]
            for each in (example, twin)
        )
        require(runs == twin_runs, f"supervised runs {runs} instead of {twin_runs}")
        mask = np.zeros(len(example), bool)
        for span in example.spans:
            mask[span.token_start : span.token_end] = True
        require(np.array_equal(example.loss_mask, mask), "the mask is not the spans")
        found, expected = (
            [i for i in each.input_ids.tolist() if i in self.control] for each in (example, twin)
        )
        require(found == expected, f"{self._names(found)} in {example.text!r}")
        if self._unknown & set(example.input_ids.tolist()):
            return "control ids"  # what is typed cannot be spelled, and unknown neighbours fuse
        self._check_spelling()
        return self._check_every_id()

    def _check_text(self, shown: dict[str, str]) -> None:
        """Require what transformers renders, as a whole and before each supervised run."""
        text, twin = self.example.text, self.twin.text
        require(len(text) == len(twin), "the texts differ in length")
        if twin in shown:
            require(text == shown[twin], "the text is not what transformers renders")
        for span in self.example.spans:
            prompt = shown.get(twin[: span.start], text[: span.start])
            require(text[: span.start] == prompt, "the prompt is not what transformers renders")

    def _check_spelling(self) -> None:
        """Require that the ids spell the text run by run, but for white space.

        A tokenizer that loses what its normaliser keeps spells the twin differently, too.
        """
        if not self._spells(self.twin.input_ids.tolist(), self.twin.text):
            return
        edges = [(0, 0)]
        for span in self.example.spans:
            edges += [(span.token_start, span.start), (span.token_end, span.end)]
        edges.append((len(self.example), len(self.example.text)))
        ids = self.example.input_ids.tolist()
        for (start, a), (end, b) in itertools.pairwise(edges):
            written = self.example.text[a:b]
            names = self._names(ids[start:end])
            require(self._spells(ids[start:end], written), f"{names} do not spell {written!r}")

    def _spells(self, ids: list[int], text: str) -> bool:
        """Return whether ids spell a text, but for white space, as the tokenizer normalises it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        normaliser = getattr(backend, "normalizer", None)
        spelled = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        forms = [bare(spelled), bare(text)]
        if normaliser is not None:
            forms = [normaliser.normalize_str(form) for form in forms]
        return forms[0] == forms[1]

    def _check_every_id(self) -> str:
        """Compare with text tokenized piece by piece, where that gives the ids of the twin."""
        apart = _straddles([self.example])
        cuts = [span.start for span in self.example.spans if span.message_index in apart]
        actual = self.example.input_ids.tolist()
        for has_dummy_space in (False, True):
            twin = self._by_pieces(self.twin.text, cuts, has_dummy_space)
            if twin == self.twin.input_ids.tolist():
                ids = self._by_pieces(self.example.text, cuts, has_dummy_space)
                require(ids == actual, f"{self._names(actual)}, not {self._names(ids)}")
                return "every id"
        return "control ids"

    def _names(self, ids: Sequence[int]) -> list[str]:
        names: list[str] = self.tokenizer.convert_ids_to_tokens(list(ids))
        return names

    def _by_pieces(self, text: str, cuts: Sequence[int], has_dummy_space: bool) -> list[int]:
        """Tokenize what lies between the template's control tokens, each piece on its own."""
        names = {str(self.added[i]): i for i in self.control}
        longest_first = sorted(names, key=len, reverse=True)
        found = re.finditer("|".join(map(re.escape, longest_first)), self.twin.text)
        borders: list[tuple[int, int, list[int]]] = [
            *((match.start(), match.end(), [names[match.group()]]) for match in found),
            *((cut, cut, []) for cut in cuts),
            (len(text), len(text), []),
        ]
        ids: list[int] = []
        at, is_swallowed = 0, False
        for start, end, control in sorted(borders):
            piece = text[at:start].lstrip() if is_swallowed else text[at:start]
            ids += self._piece(piece, behind_newline=has_dummy_space and at > 0) + control
            is_swallowed = any(self.added[i].rstrip for i in control)
            at = end
        return ids

    def _piece(self, text: str, *, behind_newline: bool) -> list[int]:
        """Tokenize plain text; behind a newline, SentencePiece puts no dummy space before it."""
        if not behind_newline or not text:
            return _ids(self.tokenizer, text, split_special_tokens=True)
        anchor = _ids(self.tokenizer, "\n")
        return _ids(self.tokenizer, "\n" + text, split_special_tokens=True)[len(anchor) :]
