"""A probe -> one HTML page: what a model predicts, drawn over the text token by token.

In: the tokens probed, what was found, examples with their text. Out: a self-contained page
(`html_page`) that ``assets/web/probe.js`` draws from plain data. A page has `EXAMPLES` of the
examples at most: half of them the hardest, the others evenly from all that are easier.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.example import Example
from lossmask.html_page import html_page
from lossmask.learned_tokens import CARRIED, Findings, by_difficulty, ignore_setting
from lossmask.prepared import PreparedDataset
from lossmask.probe_display import LEVELS, spread_of
from lossmask.probed_tokens import ProbedTokens
from lossmask.token_data import PieceTable, token_data
from lossmask.token_text import TokenTexts

__all__ = ["probe_page"]

EXAMPLES = 100
"""Examples of a page at most."""


def probe_page(
    data: PreparedDataset,
    probed: ProbedTokens,
    findings: Findings,
    *,
    model: str,
    spelled: Callable[[int], Example],
    texts: TokenTexts,
    before: tuple[str, ProbedTokens, Findings] | None = None,
) -> str:
    """Return the page.

    Args:
        data: The prepared folder.
        probed: Its tokens.
        findings: What was found about them.
        model: The model's name.
        spelled: The number of an example -> the example with its text.
        texts: What tokens spell.
        before: Another model, the same tokens as it predicts them, and what was found.
    """
    table = PieceTable(texts.bytes_of)
    named: set[int] = set()
    examples = []
    for number in _chosen(by_difficulty(probed), EXAMPLES):
        tokens = probed.of_example(number)
        entry = {
            "number": number,
            "row": int(data.rows[number]),
            "drawn": token_data(spelled(number), [], table=table),
            **_columns(tokens),
        }
        named.update(tokens.top_ids.ravel().tolist())
        if before is not None:
            earlier = before[1].of_example(number)
            entry["before"] = _columns(earlier)
            named.update(earlier.top_ids.ravel().tolist())
        examples.append(entry)
    policy = data.manifest.get("policy", {})
    setting = ignore_setting(findings.learned, policy)
    page = {
        "model": model,
        "data": data.folder,
        "findings": findings.to_mapping(texts.text_of),
        "before": None
        if before is None
        else {"model": before[0], **before[2].to_mapping(texts.text_of)},
        "levels": list(LEVELS),
        "carried": CARRIED,
        "spread": spread_of(probed),
        "setting": None if setting is None else f"-p {shlex.quote(setting)}",
        "chance": policy.get("ignore_probability", 0.8),
        "table": table.entries,
        "texts": {str(token): texts.text_of(token) for token in sorted(named)},
        "of": len(np.unique(probed.example)),
        "examples": examples,
    }
    return html_page(
        f"lossmask probe: {model}",
        page,
        scripts=("tokens.js", "probe.js"),
        styles=("tokens.css", "report.css", "probe.css"),
    )


def _chosen(ordered: list[int], count: int) -> list[int]:
    """Return the first half of the count, and as many evenly from the others."""
    if len(ordered) <= count:
        return ordered
    first = count // 2
    others = np.linspace(first, len(ordered) - 1, count - first).round().astype(int)
    return [*ordered[:first], *(ordered[place] for place in others.tolist())]


def _columns(tokens: ProbedTokens) -> dict[str, Any]:
    return {
        "at": tokens.position.tolist(),
        "loss": _rounded(tokens.loss, 4),
        "rank": tokens.rank.tolist(),
        "top": tokens.top_ids.tolist(),
        "logprobs": _rounded(tokens.top_logprobs, 3),
    }


def _rounded(values: npt.NDArray[np.float32], digits: int) -> list[Any]:
    # a model that masks tokens gives them -inf, which is no JSON
    finite = np.clip(values.astype(np.float64), -1e4, 1e4)
    rounded: list[Any] = finite.round(digits).tolist()
    return rounded
