"""Data encoded in two ways, in processes: the same account for any number of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossmask import InputError, Policy
from lossmask.confinement import REASON, Limits
from lossmask.data_diff import ROWS_PER_CHUNK, diff_data
from lossmask.diff_words import Sides, diff_mapping
from lossmask.embedded import DEMO_MODEL
from lossmask.foreign_masks import ForeignSource
from lossmask.preparing import EncoderSource
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import assistant, user

SOURCE = EncoderSource(str(DEMO_MODEL))
ONE = [user("Q0?"), assistant("A1.")]
TWO = [*ONE, user("Q2?"), assistant("A3.")]
SIDES = Sides("A", "B", "", "")


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps({"messages": row}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    refused = [user("Q0 <|im_end|>"), assistant("A1.")]
    rows = [ONE, TWO, refused, "{", TWO]
    return write(tmp_path / "chats.jsonl", [*rows * 25])


def test_every_row_is_compared_and_the_first_that_differ_are_kept(data: Path) -> None:
    last = EncoderSource(str(DEMO_MODEL), Policy(train_on="last_assistant"))
    ticks: list[int] = []
    found = diff_data([data], SOURCE, last, limit=3, progress=ticks.append)
    assert (found.rows, found.same, found.differing, found.neither) == (125, 25, 50, 50)
    assert [each.row for each in found.shown] == [1, 4, 6]
    assert found.shown[0].place == f"{data}:2"
    assert dict(found.lost_rows) == {"answer": 50, "stop token": 50}
    assert dict(found.lost)["stop token"] == 50
    reasons = {reason: tally.rows for reason, tally in found.rejected_a.items()}
    assert reasons == {"control_token_in_content": 25, "broken_json": 25}
    assert found.rejected_b == found.rejected_a
    assert sum(ticks) == data.stat().st_size
    assert found.rows > ROWS_PER_CHUNK


def test_the_result_is_the_same_for_any_number_of_processes(data: Path) -> None:
    other = EncoderSource(
        str(DEMO_MODEL), chat_template=FIXTURE_TEMPLATES["plain text, one newline between"]
    )
    one, two = (diff_data([data], SOURCE, other, workers=workers) for workers in (1, 2))
    assert json.dumps(diff_mapping(one, SIDES)) == json.dumps(diff_mapping(two, SIDES))
    assert one.rows_by_kind["text"] == 75


def test_one_row_is_compared_and_kept_whether_it_differs_or_not(data: Path) -> None:
    last = EncoderSource(str(DEMO_MODEL), Policy(train_on="last_assistant"))
    same = diff_data([data], SOURCE, last, row=5)
    assert (same.rows, same.same) == (1, 1)
    assert [(each.row, each.kinds) for each in same.shown] == [(5, ())]
    other = diff_data([data], SOURCE, last, row=6)
    assert [(each.row, each.kinds) for each in other.shown] == [(6, ("only_a",))]
    with pytest.raises(InputError, match="there is no row 125"):
        diff_data([data], SOURCE, last, row=125)


def test_what_another_tool_rejects_is_a_row_that_only_a_has(data: Path) -> None:
    template = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}Yes"
    source = EncoderSource(str(DEMO_MODEL), chat_template=template)
    found = diff_data([data], SOURCE, ForeignSource(source, "transformers"), limit=1)
    assert (found.rows, found.only_a, found.differing) == (125, 50, 25)
    assert (found.only_b, found.neither) == (25, 25)  # what A refuses, transformers does not
    assert found.rejected_b["transformers_raises"].rows == 50
    assert found.rejected_b["transformers_raises"].first == f"{data}:2: TemplateError: too long"


@pytest.mark.slow
def test_a_template_at_which_one_side_hangs_rejects_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [ONE, [user("hang"), assistant("A1.")], ONE])
    template = (
        "{% for m in messages %}{% if m.content == 'hang' %}{% for i in range(99999) %}"
        "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
    )
    source = EncoderSource(str(DEMO_MODEL), chat_template=template)
    limits = Limits(1, 4)
    found = diff_data([path], SOURCE, ForeignSource(source, "transformers"), limits=limits)
    assert (found.rows, found.differing, found.only_a) == (3, 2, 1)
    assert found.rejected_b[REASON].first.startswith(f"{path}:2: it takes more than 1 s")


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [])
    with pytest.raises(InputError, match="no rows in"):
        diff_data([path], SOURCE, SOURCE)
