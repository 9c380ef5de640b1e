"""Messages of strings -> their rendering around contents that the template does not look at.

In: a template compiled by ``sealed_environment``, and messages. Out: a :class:`SealedText`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.look_ahead import WatchedMessages
from lossmask.sealed_environment import SealedEnvironment
from lossmask.sealed_reading import SealedReading, SealedText
from lossmask.sealed_text import Questions
from lossmask.template_environment import traced_message


def rendered_sealed(
    environment: SealedEnvironment,
    compiled: Any,
    messages: Sequence[dict[str, str]],
    variables: Mapping[str, Any],
) -> SealedText | None:
    """Render messages with their contents sealed.

    Args:
        environment: The environment.
        compiled: The template.
        messages: Of role and content.
        variables: All other variables of the template.

    Returns:
        None if the template raises, computes anything by another code than transformers', or looks
        at a content in a way that cannot be asked for again.
    """
    contents = [message["content"] for message in messages]
    environment.begin(len(messages))
    environment.questions = questions = Questions(contents)
    sealed = [
        traced_message(message | {"content": questions.sealed(index)}, index)
        for index, message in enumerate(messages)
    ]
    watched = WatchedMessages(sealed, environment.watch)
    seen = {**compiled.globals, **variables, "messages": watched}
    reading = SealedReading(contents, environment.watch)
    try:
        reading.read(compiled.root_render_func(compiled.new_context(seen, shared=True)))
    except MemoryError:
        raise
    except Exception:  # whatever it is, the whole way says it
        return None
    if environment.is_unproven or questions.is_broken:
        return None
    ends = {} if environment.marking_loops else reading.ends(len(messages))
    return SealedText("".join(reading.pieces), reading.written, ends, questions.asked)
