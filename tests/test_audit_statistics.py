"""Statistics of parts of the data add up to those of all of it, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from lossmask import audit_statistics
from lossmask.audit_statistics import Source, Statistics, count_parts, summarised
from lossmask.policy import PARTS

CONTENT, STOP, PROMPT, SYNTAX = (
    PARTS.index(part) for part in ("content", "stop", "prompt", "tool_calls.syntax")
)


def test_parts_are_counted_for_each_example_with_those_in_the_loss() -> None:
    parts = np.array([PROMPT, CONTENT, STOP, PROMPT, PROMPT, CONTENT], np.int8)
    in_loss = np.array([0, 1, 1, 0, 1, 0], np.bool_)
    first, none, last = count_parts(parts, in_loss, [0, 3, 3])
    assert first[[PROMPT, CONTENT, STOP]].tolist() == [[1, 0], [1, 1], [1, 1]]
    assert not none.any()
    assert last[[PROMPT, CONTENT, STOP]].tolist() == [[2, 1], [1, 0], [0, 0]]


def test_percentiles_are_values_that_are_there() -> None:
    numbers = summarised({3: 50, 8: 49, 100: 1})
    assert numbers == {
        "mean": (150 + 392 + 100) / 100,
        "min": 3,
        **{"p1": 3, "p5": 3, "p25": 3, "p50": 3, "p75": 8, "p95": 8, "p99": 8},
        "max": 100,
    }
    assert summarised({7: 1})["p1"] == summarised({7: 1})["p99"] == 7
    assert summarised({}) == {}


def one(length: int, source: str) -> Statistics:
    statistics = Statistics()
    parts = np.array([SYNTAX] * length, np.int8)
    [counted] = count_parts(parts, np.ones(length, np.bool_))
    statistics.add(length, length, turns=2, stops=1, parts=counted)
    statistics.source(source).rows = length
    return statistics


def test_merged_statistics_are_those_of_all() -> None:
    whole = one(4, "a")
    whole.merge(one(6, "b"))
    whole.merge(one(4, "a"))
    assert whole.lengths == whole.supervised == {4: 2, 6: 1}
    assert (whole.turns, whole.shares, whole.stops_trained) == ({2: 3}, {1000: 3}, 3)
    assert whole.by_part()["tool_calls"] == {"tokens": 14, "supervised_tokens": 14}
    assert [(name, source.rows) for name, source in whole.by_source()] == [("a", 8), ("b", 6)]
    plain = whole.to_mapping()
    assert plain["supervised_share"]["p50"] == 1.0
    assert plain["sources"]["a"]["rows"] == 8


def test_many_sources_are_listed_as_the_largest_and_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_statistics, "SOURCES_LISTED", 2)
    statistics = Statistics()
    for rows, name in enumerate("abcd", start=1):
        statistics.source(name).add(Source(rows=rows, tokens=10))
    listed = statistics.by_source()
    assert [(name, source.rows, source.tokens) for name, source in listed] == [
        ("d", 4, 10),
        ("c", 3, 10),
        ("(2 others)", 3, 20),
    ]
