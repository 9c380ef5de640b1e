r"""Conversations of plain messages, laid out from one rendering that proves all of its prompts.

In: rows ``{"messages": [{"role", "content"}, …]}``. Out: for each, the text with the places that
matter, or None: then the whole way through ``pipeline`` has to be gone. What is left out here is
only what provably changes nothing, so both ways give the same example::

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
                      ^^                                  ^^^^^             written
                                                          ^^^^^^^^^^^^^^^   completions

A conversation is laid out here if the template shows every content once, whole and in order, if
its rendering proves what each prompt renders to (``look_ahead``, ``template_tail``), if each
completion begins with the content and ends with a stop token, and if no content holds a control
token. The policy has to be one under which a token counts 1 or 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from lossmask.control_tokens import control_tokens_of
from lossmask.errors import LossmaskError
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.pipeline import encode_conversation, prove_template
from lossmask.policy import Policy
from lossmask.rendered_turns import RenderedTurns
from lossmask.rendering import ChatTemplate
from lossmask.sealed_reading import SealedText
from lossmask.sealed_text import Asked
from lossmask.setting import Setting
from lossmask.skeletons import PlainLayout, Skeleton, Skeletons
from lossmask.written import THINK_PAIRS

_ROLES = frozenset({"system", "user", "assistant"})
_READ = ("role", "content")
_MOST_SHAPES = 10_000
_MOST_TRIES = 16  # to render the beginnings of a shape: other contents have other answers
_MOST_IN_VAIN = 50
_MOST_TURNS = 32
_PROBE_MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_PROBE_VALUES: tuple[Any, ...] = ("x", "[]", 1, 0.5, True, None, ["x"], [{"x": 1}], {"x": 1}, [])


class PlainConversations:
    """Lays out conversations under one setting.

    Args:
        setting: Template, tokenizer, policy.
        layout: How rows are laid out.

    Attributes:
        is_possible: Whether any conversation can be laid out under this setting.
        invitation: The generation prompt, once :meth:`prompt_end` was asked for.
    """

    def __init__(self, setting: Setting, layout: Layout) -> None:
        self._setting = setting
        self._train_on = setting.policy.train_on
        self._harmless: dict[tuple[str, ...], bool] = {}
        self._skeletons = Skeletons()
        self._in_vain = 0
        self._met: dict[tuple[str, ...], int] = {}  # shapes whose beginnings have to be rendered
        self._ends_of_turns: dict[str, int] = {}  # what follows a content -> where its stop ends
        self.invitation = ""  # the generation prompt
        self._prompt_end: str | None = None
        self._is_probed = False
        self._variables: dict[str, Any] = {}
        self.is_possible = _is_possible(setting, layout)
        if self.is_possible:
            control = control_tokens_of(setting.tokenizer, setting.stops)
            texts = [*filter(None, control.texts.values())]
            self._telling = [(_rarest(part), part) for part in _telling_parts(texts)]
            self.is_possible = not any(text in key for text in texts for key in _READ)

    def prompt_end(self) -> str | None:
        """Return what every prompt ends with, None if that is not known.

        It is the generation prompt, or what a template without one writes behind a user's message.
        """
        if not self._is_probed and self.is_possible:
            self._is_probed = True
            self._probe()
        return self._prompt_end

    def _probe(self) -> None:
        template, variables = self._setting.template, self._setting.template_variables
        assert isinstance(template, ChatTemplate)
        try:
            prove_template(self._setting)
            self._variables = template.seen_variables(variables)
        except MemoryError:
            raise
        except Exception:  # whatever it is, the whole way says it
            return
        asked = {**self._variables, "add_generation_prompt": True}
        before, prompt = (
            template.render_sealed(_PROBE_MESSAGES[:1], each) for each in (self._variables, asked)
        )
        if before is None or prompt is None or not prompt.text.startswith(before.text):
            return
        self.invitation = prompt.text[len(before.text) :]
        prompt_end = self.invitation or str(prompt.parts()[-1])
        if not _could_think(prompt_end):
            self._prompt_end = prompt_end

    def lay_out(self, row: Mapping[str, Any]) -> list[PlainLayout] | None:
        """Lay out the examples of one row; None if it takes the whole way."""
        if type(row) is not dict and not isinstance(row, Mapping):
            return None  # whatever a data file holds: the whole way says what is wrong with it
        messages: Any = row.get("messages")
        shape = _shape(messages) if type(messages) is list else None
        if shape is None:
            return None
        if len(row) > 1 and not self._are_harmless(row):
            return None
        if self._prompt_end is None and self.prompt_end() is None:
            return None
        contents = [message["content"] for message in messages]
        for character, part in self._telling:
            for content in contents:
                if character in content and part in content:  # one character is found quicker
                    return None
        layouts = self._skeletons.filled(shape, contents)
        if layouts is None:
            layouts = self._rendered(messages, contents, shape)
        if layouts is None:
            return None
        template = self._setting.template
        assert isinstance(template, ChatTemplate)
        if template.is_due(layouts[0].text) and not self._is_confirmed(messages, layouts):
            return None
        return layouts

    def _are_harmless(self, row: Mapping[str, Any]) -> bool:
        """Return whether no format reads the other keys of a row, alone or together."""
        keys = tuple(row)
        known = self._harmless.get(keys)
        if known is None:
            others = [key for key in keys if key != "messages"]
            known = all(_change_nothing([key]) for key in others) and _change_nothing(others)
            self._harmless[keys] = known
        return known

    def _trained(self, roles: Sequence[str]) -> list[int]:
        answers = [index for index, role in enumerate(roles) if role == "assistant"]
        if self._train_on == "all_assistant":
            return answers
        if self._train_on == "last_assistant":
            return answers[-1:]
        last_user = max((k for k, role in enumerate(roles) if role == "user"), default=-1)
        return [index for index in answers if index > last_user]

    def _rendered(
        self, messages: list[dict[str, str]], contents: list[str], shape: tuple[str, ...]
    ) -> list[PlainLayout] | None:
        """Lay out a conversation by rendering it, and keep what it has in common with others."""
        trained = self._trained([message["role"] for message in messages])
        if not trained or trained[0] == 0:
            return None
        template = self._setting.template
        assert isinstance(template, ChatTemplate)
        sealed = template.render_sealed(messages, self._variables)
        if sealed is None or not _shows_all(sealed.written, contents):
            return None
        layout = self._of_proven_ends(sealed, trained)
        layouts, asked = [] if layout is None else [layout], sealed.asked
        if layout is None:
            found = self._rendered_turns(messages, sealed, trained, shape)
            if found is None:
                return None
            layouts, asked = found[0], asked | found[1]
        if len(layouts) > 1 and self._setting.policy.history != "expand":
            return None
        if not all(self._prompts_end_alike(layout) for layout in layouts):
            return None
        self._skeletons.add(shape, Skeleton.of(layouts, asked))
        return layouts

    def _rendered_turns(
        self,
        messages: list[dict[str, str]],
        whole: SealedText,
        trained: list[int],
        shape: tuple[str, ...],
    ) -> tuple[list[PlainLayout], Asked] | None:
        """Render the beginnings of a conversation, if that may be worth it for others like it.

        So it is if its shape was met before, though not often, and if it has not been in vain too
        often: it costs as much as the whole way.
        """
        met = self._met[shape] = self._met.get(shape, 0) + 1
        if len(self._met) > _MOST_SHAPES:
            self._met.clear()
        if (
            not 1 < met <= _MOST_TRIES
            or len(trained) > _MOST_TURNS
            or self._in_vain > _MOST_IN_VAIN
        ):
            return None
        self._in_vain += 1
        setting = self._setting
        assert isinstance(setting.template, ChatTemplate)
        turns = RenderedTurns(
            setting.template,
            self._variables,
            invitation=self.invitation,
            stops=setting.stops,
            end_of_stop=self._end_of_stop,
        )
        found = turns.examples(messages, whole, trained)
        if found is None or not self._is_as_the_whole_way(messages, found[0]):
            return None
        self._in_vain = max(0, self._in_vain - 4)
        return found

    def _is_as_the_whole_way(self, messages: list[Any], layouts: Sequence[PlainLayout]) -> bool:
        """Return whether the whole way makes the same examples of a conversation."""
        try:
            examples = encode_conversation(messages, None, self._setting)
        except LossmaskError:
            return False
        return [(layout.text, layout.completions) for layout in layouts] == [
            (example.text, [(s.message_index, s.start, s.end) for s in example.spans])
            for example in examples
        ] and not any(example.findings for example in examples)

    def _of_proven_ends(self, sealed: SealedText, trained: list[int]) -> PlainLayout | None:
        """Return the one example of a conversation whose beginnings are proven."""
        text, invitation = sealed.text, self.invitation
        places = {index: place for place, (index, *_) in enumerate(sealed.written)}
        completions = []
        for index in trained:
            context, turn_end = sealed.ends.get(index), sealed.ends.get(index + 1)
            place = places.get(index)
            if context is None or turn_end is None or place is None:
                return None
            first = context + len(invitation)
            _, start, end = sealed.written[place]
            before = sealed.written[place - 1][2] if place else 0
            if not before <= context <= first <= start or not text.startswith(invitation, context):
                return None
            if self._setting.stops.pattern.search(text, first, start):
                return None  # inference would stop there
            width = self._end_of_stop(text[end:turn_end])
            if not width:
                return None
            completions.append((index, first, end + width))
        return PlainLayout.of(text, sealed.written, completions)

    def _prompts_end_alike(self, layout: PlainLayout) -> bool:
        prompt_end = self._prompt_end or ""
        return all(layout.text.endswith(prompt_end, 0, at) for _, at, _ in layout.completions)

    def _end_of_stop(self, follows: str) -> int:
        """Return where the stop token in what follows a content ends, 0 if there is none."""
        width = self._ends_of_turns.get(follows)
        if width is None:
            found = self._setting.stops.first_run(follows, 0)
            width = self._ends_of_turns[follows] = 0 if found is None else found.end()
        return width

    def _is_confirmed(self, messages: list[Any], layouts: Sequence[PlainLayout]) -> bool:
        """Return whether transformers renders the conversation and its prompts alike."""
        template, variables = self._setting.template, self._setting.template_variables
        try:
            for layout in layouts:
                counts = dict.fromkeys([len(messages), layout.completions[-1][0] + 1])
                if not any(
                    template.render_text(messages[:k], template_variables=variables) == layout.text
                    for k in counts
                ):
                    return False
                for index, start, _ in layout.completions:
                    prompt = template.render_text(
                        messages[:index], add_generation_prompt=True, template_variables=variables
                    )
                    if prompt != layout.text[:start]:
                        return False
        except LossmaskError:
            return False
        return True


def _is_possible(setting: Setting, layout: Layout) -> bool:
    """Return whether any conversation can be laid out here under a setting."""
    policy, default = setting.policy, Policy()
    without_effect = {  # on a turn that is proven, ends with a stop token, and holds no other one
        name: getattr(default, name)
        for name in ("train_on", "history", "boundary", "control_tokens", "append_stop")
    }
    return (
        isinstance(setting.template, ChatTemplate)
        and layout == Layout()
        and setting.proof == "template"
        and policy.train_on in ("all_assistant", "last_assistant", "last_turn")
        and replace(policy, **without_effect) == default  # what is added later counts, too
    )


def _change_nothing(keys: Sequence[str]) -> bool:
    """Return whether no format reads some keys beside ``messages``, whatever their value."""
    plain = {"messages": _PROBE_MESSAGES}
    try:
        return all(
            to_normal(plain | dict.fromkeys(keys, value)) == plain for value in _PROBE_VALUES
        )
    except LossmaskError:
        return False


def _telling_parts(texts: Sequence[str]) -> list[str]:
    """Return a few short strings of which every text holds one: text without them holds none."""
    left = list(texts)
    parts: list[str] = []
    while left:
        pairs = [text[at : at + 2] for text in left for at in range(max(1, len(text) - 1))]
        best = max(sorted(set(pairs)), key=lambda part: sum(part in text for text in left))
        parts.append(best)
        left = [text for text in left if best not in text]
    return parts


def _rarest(part: str) -> str:
    """Return the character of a part that text seldom holds, for all that one can tell."""
    return min(part, key=str.isalnum)


def _shape(messages: list[Any]) -> tuple[str, ...] | None:
    """Return what plain messages are besides their contents, None if any is not plain.

    Role and order of the keys of each, and whether its content is empty.
    """
    shape = []
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or role not in _ROLES or type(content) is not str:
            return None
        kind = role if content else role + " without content"
        shape.append(kind if next(iter(message)) == "role" else kind + " first")
    return tuple(shape) or None


def _shows_all(written: Sequence[tuple[int, int, int]], contents: Sequence[str]) -> bool:
    """Return whether each content that is not empty stands there once, and in order."""
    shown = [index for index, *_ in written]
    return shown == [index for index, content in enumerate(contents) if content]


@cache
def _could_think(invitation: str) -> bool:
    """Return whether a generation prompt could begin a think block, or end one's beginning."""
    end = invitation.rstrip()
    return any(opening in invitation or opening.endswith(end) for opening, _ in THINK_PAIRS)
