r"""Which examples a conversation makes, by rendering every beginning of it with sealed contents.

In: a template and a conversation whose contents it does not look at unnoticed. Out: its examples,
laid out, for templates of which ``look_ahead`` proves too little: they ask ``loop.last``, write
something behind their loop, or show an answer otherwise once the conversation goes on::

    prompt(1)      … Hi [/user] [assistant]
    up to 1        … Hi [/user] [assistant] <think></think> Hello [/assistant]
    whole          … Hi [/user] [assistant] Hello [/assistant] [user] …         another example

Texts are compared part by part, literal with literal and content with the same content, so what
comes out holds for any contents of which the same questions have the same answers. Those that begin
otherwise have to differ in literals, whatever the contents are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossmask.rendering import ChatTemplate
from lossmask.sealed_reading import SealedText
from lossmask.sealed_text import Asked
from lossmask.skeletons import PlainLayout
from lossmask.stops import Stops


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A turn: the messages up to it, and its completion in characters of that text."""

    index: int
    finished: SealedText
    start: int
    end: int


class _Unclear(Exception):
    """Whether two texts begin alike depends on the contents."""


class RenderedTurns:
    """Finds the examples of one conversation.

    Args:
        template: The template.
        variables: As for ``ChatTemplate.render_sealed``.
        invitation: The generation prompt.
        stops: The stop tokens.
        end_of_stop: What follows a content -> how many characters of it the model generates.
    """

    def __init__(
        self,
        template: ChatTemplate,
        variables: Mapping[str, Any],
        *,
        invitation: str,
        stops: Stops,
        end_of_stop: Callable[[str], int],
    ) -> None:
        self._template = template
        self._variables = variables
        self._prompting = {**variables, "add_generation_prompt": True}
        self._invitation = invitation
        self._stops = stops
        self._end_of_stop = end_of_stop
        self._asked: Asked = {}
        self._contents: list[str] = []

    def examples(
        self, messages: Sequence[dict[str, str]], whole: SealedText, trained: Sequence[int]
    ) -> tuple[list[PlainLayout], Asked] | None:
        """Return the examples, the first holding the last turn, and what they depend on.

        Args:
            messages: Of role and content.
            whole: The rendering of all of them, which shows every content once and in order.
            trained: The turns in the loss, ascending.

        Returns:
            None where that takes a closer look.
        """
        turns = [turn for index in trained if (turn := self._turn(messages, index)) is not None]
        if len(turns) < len(trained):
            return None
        self._contents = [message["content"] for message in messages]
        layouts = []
        base: SealedText | None = whole
        try:
            while turns:
                if base is None or not self._holds(base, turns[-1]):
                    base = turns[-1].finished
                held = [turn for turn in turns if self._holds(base, turn)]
                completions = [(turn.index, turn.start, turn.end) for turn in held]
                layouts.append(PlainLayout.of(base.text, base.written, completions))
                turns = [turn for turn in turns if turn not in held]
                base = None
        except _Unclear:
            return None
        return layouts, self._asked

    def _turn(self, messages: Sequence[dict[str, str]], index: int) -> _Turn | None:
        before = self._render(messages[:index], self._variables)
        prompt = self._render(messages[:index], self._prompting)
        finished = self._render(messages[: index + 1], self._variables)
        if before is None or prompt is None or finished is None or not finished.written:
            return None
        *context, behind = before.parts()
        *literals, lead, content, follows = finished.parts()
        begins = [*context, behind + self._invitation]
        if prompt.parts() != begins or content != index or literals != context:
            return None
        if not lead.startswith(begins[-1]):
            return None
        if self._stops.pattern.search(lead, len(begins[-1])):
            return None  # inference would stop there
        width = self._end_of_stop(follows)
        if not width:
            return None
        return _Turn(index, finished, len(prompt.text), finished.written[-1][2] + width)

    def _render(
        self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any]
    ) -> SealedText | None:
        sealed = self._template.render_sealed(messages, variables)
        if sealed is None:
            return None
        shown = [index for index, *_ in sealed.written]
        if shown != [index for index, message in enumerate(messages) if message["content"]]:
            return None
        self._asked |= sealed.asked
        return sealed

    def _holds(self, base: SealedText, turn: _Turn) -> bool:
        """Return whether an example's text begins with a turn's, up to its end."""
        if base is turn.finished:
            return True
        own = turn.finished.parts()
        own[-1] = own[-1][: turn.end - turn.finished.written[-1][2]]
        return self._begins(base.parts(), own)

    def _begins(self, whole: Sequence[Any], beginning: Sequence[Any]) -> bool:
        """Return whether one text begins with another, whatever the contents are.

        Raises:
            _Unclear: That depends on the contents.
        """
        last = len(beginning) - 1
        for place, part in enumerate(beginning):
            other = whole[place] if place < len(whole) else ""
            if part == other:
                continue
            if not isinstance(part, str) or not isinstance(other, str):
                raise _Unclear
            if part.startswith(other):
                self._require_other(whole, place + 1, part[len(other)])
                return False
            if other.startswith(part):
                if place == last:
                    return True
                self._require_other(beginning, place + 1, other[len(part)])
                return False
            return False
        return True

    def _require_other(self, parts: Sequence[Any], place: int, first: str) -> None:
        """Require that a content does not begin with a character, if there is one at all."""
        if place >= len(parts):
            return
        index = parts[place]
        if self._contents[index].startswith(first):
            raise _Unclear
        self._asked[index, str.startswith, (first,)] = False
