"""Examples made by hand, token by token, for tests of what compares and draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lossmask import Example, Span

VOCABULARY: dict[str, int] = {}


def made(
    tokens: str,
    trained: Sequence[int] | Mapping[int, float] = (),
    *,
    owners: Sequence[int] | None = None,
    spans: Sequence[Span] = (),
    shared: Sequence[int] = (),
) -> Example:
    """Return an example of tokens that are written ``The| cat|.``.

    Args:
        tokens: Their texts, ``|`` between them; the same text is the same id in every example.
        trained: Numbers of those in the loss, with their weights if not 1.
        owners: The message that wrote each, -1 = the template; default: the template.
        spans: The completions.
        shared: Numbers of tokens that are a second half of the character before them.
    """
    texts = tokens.split("|")
    ids = [VOCABULARY.setdefault(text, 100 + len(VOCABULARY)) for text in texts]
    offsets: list[tuple[int, int]] = []
    at = 0
    for number, text in enumerate(texts):
        if number in shared:
            offsets.append(offsets[-1])
            continue
        offsets.append((at, at + len(text)))
        at += len(text)
    weights = np.zeros(len(texts), np.float32)
    for number in trained:
        weights[number] = trained[number] if isinstance(trained, Mapping) else 1
    return Example(
        "".join(text for number, text in enumerate(texts) if number not in shared),
        np.array(ids, np.int32),
        np.array(offsets, np.int32).reshape(-1, 2),
        weights,
        np.array(owners or [-1] * len(texts), np.int32),
        tuple(spans),
    )
