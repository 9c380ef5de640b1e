"""Faults in what proves prompts and encodes plain conversations many at a time. See ``mutations``.

They are put in by rewriting a line of a function, since each line there is a condition.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest

from lossmask import (
    plain_conversations,
    plain_examples,
    plain_tokens,
    rendering,
    sealed_rendering,
    template_tail,
)
from lossmask.look_ahead import Watch, WatchedMessages
from lossmask.plain_conversations import PlainConversations
from lossmask.plain_tokens import PlainTokens
from lossmask.rendered_turns import RenderedTurns
from lossmask.rendering import ChatTemplate
from lossmask.sealed_environment import SealedEnvironment
from lossmask.sealed_reading import SealedReading
from lossmask.sealed_text import Questions, Sealed
from lossmask.skeletons import Frame, Skeleton
from tests.mutations import Mutant, Patch, becomes, both


def rewritten(owner: Any, name: str, old: str, new: str, *more: tuple[str, str]) -> Patch:
    """Replace pieces of the source of a function, which has to hold each once."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        function = inspect.getattr_static(owner, name)
        source = textwrap.dedent(inspect.getsource(function))
        for before, after in [(old, new), *more]:
            assert source.count(before) == 1, f"{name} does not hold {before!r} once"
            source = source.replace(before, after)
        module = vars(sys.modules[function.__module__])
        found: dict[str, Any] = {}
        exec("from __future__ import annotations\n" + source, module, found)
        monkeypatch.setattr(owner, name, found[name])

    return patch


def _mutant(name: str, patch: Patch) -> Mutant:
    return Mutant(name, patch, "wrong")


def _nothing(*_: object) -> None:
    return None


PROOF = [
    _mutant("proof: reading a message is not noted", becomes(Watch, "read", _nothing)),
    _mutant("proof: reading all messages is not noted", becomes(Watch, "read_all", _nothing)),
    _mutant(
        "proof: going on to the next message is not noted", becomes(Watch, "advance", _nothing)
    ),
    _mutant(
        "proof: reading one ahead is not noted",
        rewritten(Watch, "read", "if first <= index:", "if first < index:"),
    ),
    _mutant(
        "proof: reading behind the loop is not noted",
        both(
            rewritten(Watch, "read", "self.is_broken = True", "pass"),
            becomes(template_tail, "_VARYING", frozenset()),
        ),
    ),
    _mutant(
        "proof: a slice is counted from the first message",
        rewritten(WatchedMessages, "__getitem__", "watch, first + start", "watch, 0"),
    ),
    _mutant(
        "proof: an empty list of messages tells nothing",
        rewritten(
            WatchedMessages, "__getitem__", "watch.read_all()\n    return", "pass\n    return"
        ),
    ),
    _mutant(
        "proof: every tail is constant", becomes(template_tail, "_is_constant", lambda *_: True)
    ),
    _mutant(
        "proof: a tail with macros is constant", becomes(template_tail, "_is_opaque", _nothing)
    ),
    _mutant(
        "proof: what is set before the loop is constant",
        becomes(template_tail, "_is_value", lambda node: True),
    ),
    _mutant(
        "proof: a loop that is told of the prompt counts",
        rewritten(template_tail, "_is_constant", "if any(_ASKED in _loaded(node)", "if any(False"),
    ),
    _mutant(
        "proof: text behind the loop is not noticed",
        rewritten(rendering, "_proven_ends", " and end == length", ""),
    ),
    _mutant(
        "proof: the loops that have run are not looked at",
        rewritten(
            rendering,
            "_proven_ends",
            "not environment.marking_loops <= environment.constant_tails",
            "False",
        ),
    ),
    _mutant(
        "proof: a beginning ends one message late",
        rewritten(rendering, "_proven_ends", "ends[index] = end", "ends[index - 1] = end"),
    ),
]

_UNCHECKED = becomes(PlainConversations, "_is_as_the_whole_way", lambda *_: True)
PLAIN = [
    _mutant(
        "plain: an unproven text is taken",
        both(
            rewritten(sealed_rendering, "rendered_sealed", "environment.is_unproven or", ""),
            becomes(rendering, "rendered_sealed", lambda *a: sealed_rendering.rendered_sealed(*a)),
        ),
    ),
    _mutant(
        "plain: a beginning ends one message late",
        rewritten(SealedReading, "ends", "ends[index + 1] = end", "ends[index] = end"),
    ),
    _mutant("sealed: answers are not compared", rewritten(Skeleton, "filled", "self.asked", "()")),
    _mutant(
        "sealed: what was left as it was is not compared",
        rewritten(
            Skeleton,
            "filled",
            "elif given != contents[index] and given != [contents[index]]:",
            "elif False:",
        ),
    ),
    _mutant(
        "sealed: answers are not noted",
        rewritten(Questions, "ask", "self.asked[index, function, plain] = answer", "pass"),
    ),
    _mutant(
        "sealed: what is measured is not noted",
        rewritten(
            Questions, "ask_anything", "self.asked[index, function, arguments] = answer", "pass"
        ),
    ),
    _mutant(
        "sealed: a sum is stripped whatever its contents",
        rewritten(Sealed, "_stripped", "self.questions.ask(part, own, ()) is not None", "False"),
    ),
    _mutant(
        "sealed: filters take any content as it is",
        rewritten(
            SealedEnvironment, "_sealed_filter", 'if name == "string":', 'if name != "string":'
        ),
    ),
    _mutant(
        "turns: a beginning may differ",
        both(_UNCHECKED, becomes(RenderedTurns, "_begins", lambda *_: True)),
    ),
    _mutant(
        "turns: a content may begin as a literal does",
        both(_UNCHECKED, becomes(RenderedTurns, "_require_other", _nothing)),
    ),
    _mutant(
        "turns: prompts are not looked at",
        both(
            _UNCHECKED,
            rewritten(RenderedTurns, "_turn", "prompt.parts() != begins or", ""),
        ),
    ),
    _mutant(
        "turns: a stop before the answer is not noticed",
        both(
            _UNCHECKED,
            rewritten(
                RenderedTurns, "_turn", "self._stops.pattern.search(lead, len(begins[-1]))", "None"
            ),
        ),
    ),
    _mutant(
        "turns: only the last example is made",
        both(
            _UNCHECKED,
            rewritten(
                RenderedTurns,
                "examples",
                "turns = [turn for turn in turns if turn not in held]",
                "turns = []",
            ),
        ),
    ),
    _mutant(
        "plain: other keys are looked at one by one",
        rewritten(PlainConversations, "_are_harmless", " and _change_nothing(others)", ""),
    ),
    _mutant(
        "plain: no key changes anything", becomes(plain_conversations, "_change_nothing", bool)
    ),
    _mutant(
        "plain: rows that are no objects are read",
        rewritten(PlainConversations, "lay_out", "not isinstance(row, Mapping)", "False"),
    ),
    _mutant(
        "plain: the first answer is the last one",
        rewritten(PlainConversations, "_trained", "answers[-1:]", "answers[:1]"),
    ),
    _mutant(
        "plain: contents that are missing are not noticed",
        becomes(plain_conversations, "_shows_all", lambda *_: True),
    ),
    _mutant(
        "plain: a turn ends at the first of several stops",
        rewritten(
            PlainConversations,
            "_end_of_stop",
            "stops.first_run(follows, 0)",
            "stops.pattern.search(follows)",
        ),
    ),
    _mutant(
        "plain: every policy is possible",
        becomes(plain_conversations, "_is_possible", lambda *_: True),
    ),
    _mutant(
        "plain: the template does not see documents",
        rewritten(
            ChatTemplate,
            "seen_variables",
            '{"documents": None, **seen,',
            '{**seen, "documents": None,',
        ),
    ),
    _mutant(
        "plain: a think block that the generation prompt opens is not noticed",
        becomes(plain_conversations, "_could_think", lambda invitation: False),
    ),
]

TOKENS = [
    _mutant(
        "plain tokens: the loss begins one token late",
        rewritten(PlainTokens, "_completions", "len(ids), begin,", "len(ids), begin + 1,"),
    ),
    _mutant(
        "plain tokens: the loss ends one token early",
        rewritten(PlainTokens, "_completions", "begin, end, np.ones", "begin, end - 1, np.ones"),
    ),
    _mutant(
        "plain tokens: tokens are attributed to the message behind",
        rewritten(PlainTokens, "_messages", "message + 1)", "message + 2)"),
    ),
    _mutant(
        "plain tokens: attribution is one token late",
        rewritten(
            PlainTokens, "_messages", ", from_token, to_token,", ", from_token + 1, to_token + 1,"
        ),
    ),
    _mutant(
        "plain tokens: a token of two contents is the second one's",
        rewritten(
            PlainTokens,
            "_messages",
            "from_token[1:] = np.maximum(from_token[1:], to_token[:-1])",
            "pass",
        ),
    ),
    _mutant(
        "plain tokens: a token across the border is not noticed",
        rewritten(
            PlainTokens,
            "_completions",
            "(bounds[begin] != first) |",
            "",
            ("!= ends_with", "< 0"),
            ("bounds[before[:, 0]] != first - length", "False"),
        ),
    ),
    _mutant(
        "plain tokens: a token across the end is not noticed",
        rewritten(
            PlainTokens,
            "_completions",
            "| (bounds[np.minimum(end, len(bounds) - 1)] != last)",
            "",
            ("~self._is_stop[ids[np.maximum(end - 1, 0)]]", "False"),
        ),
    ),
    _mutant(
        "plain tokens: the ids of the generation prompt are not compared",
        rewritten(
            PlainTokens,
            "_completions",
            "is_wrong |= (ids[np.minimum(before, len(ids) - 1)] != ends_with).any(axis=1)",
            "pass",
        ),
    ),
    _mutant(
        "plain tokens: the stop is not looked at",
        rewritten(
            PlainTokens,
            "_completions",
            "is_wrong |= ~self._is_stop[ids[np.maximum(end - 1, 0)]]",
            "pass",
        ),
    ),
    _mutant(
        "plain tokens: control tokens in contents are not noticed",
        rewritten(PlainTokens, "encode", "self._is_control[ids]", "(ids < 0)"),
    ),
    _mutant(
        "plain tokens: only control tokens are, not stops of the vocabulary",
        rewritten(PlainTokens, "__init__", "[*control.ids, *setting.stops.ids]", "control.ids"),
    ),
    _mutant(
        "plain tokens: what the tokens spell is not compared",
        becomes(plain_tokens, "_spells", lambda texts, *_: [True] * len(texts)),
    ),
    _mutant(
        "plain tokens: the length is not looked at",
        rewritten(
            PlainTokens,
            "encode",
            "is_exact &= [self._fit.admits(length) for length in np.diff(starts).tolist()]",
            "pass",
        ),
    ),
    _mutant(
        "plain tokens: think blocks are part of the content",
        becomes(plain_tokens, "_thoughts", _nothing),
    ),
    _mutant(
        "plain tokens: places are in characters",
        rewritten(Frame, "filled", "text.isascii()", "True"),
    ),
    _mutant(
        "plain tokens: offsets are in bytes",
        rewritten(plain_examples, "_characters", "text.isascii()", "True"),
    ),
    _mutant(
        "plain tokens: spans begin one token late",
        rewritten(
            plain_examples, "_span", "start, end, token_start,", "start, end, token_start + 1,"
        ),
    ),
]

PLAIN_MUTANTS = [*PROOF, *PLAIN, *TOKENS]
