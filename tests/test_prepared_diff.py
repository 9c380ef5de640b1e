"""Two prepared folders of the same data: rows compared by ids and weights, each accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossmask import InputError, Policy, PreparedDataError, TokenizerError
from lossmask.diff_words import Sides, sentences
from lossmask.embedded import DEMO_MODEL
from lossmask.prepared_diff import diff_prepared
from lossmask.prepared_manifest import is_prepared
from lossmask.preparing import EncoderSource, prepare
from tests.scenarios import assistant, user

ONE = [user("Q0?"), assistant("A1.")]
TWO = [*ONE, user("Q2 🎉"), assistant("A3.")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Prepare rows with the default, with the stop tokens of last turns only, and as the first."""
    folder = tmp_path_factory.mktemp("prepared")
    refused = [user("Q0 <|im_end|>"), assistant("A1.")]
    unlike = [user("Q0?"), {**assistant("A1."), "weight": 0}]
    rows: list[Any] = [ONE, TWO, refused, TWO, unlike]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    made = []
    for name, policy in (
        ("a", Policy()),
        ("b", Policy(stop="last", control_tokens="escape")),
        ("c", Policy()),
    ):
        made.append(prepare([data], EncoderSource(str(DEMO_MODEL), policy), folder / name).folder)
    return made[0], made[1], made[2]


def test_folders_that_hold_the_same_do_not_differ(folders: tuple[Path, Path, Path]) -> None:
    a, _, c = folders
    done: list[tuple[int, int]] = []
    found = diff_prepared(a, c, progress=lambda *told: done.append(told))
    assert found.is_same
    assert (found.rows, found.same, found.neither) == (5, 3, 2)
    assert found.tokens[0] == found.tokens[1] > 0
    assert found.supervised[0] == found.supervised[1] > 0
    assert done[-1] == (5, 5)
    assert found.rejected_a["control_token_in_content"].first.startswith("row 2: message 0: ")


def test_rows_that_differ_are_shown_with_their_text(folders: tuple[Path, Path, Path]) -> None:
    a, b, _ = folders
    found = diff_prepared(a, b, limit=1)
    assert (found.rows, found.same, found.differing) == (5, 1, 2)
    assert (found.only_a, found.only_b, found.neither) == (0, 1, 1)
    assert dict(found.lost) == {"stop token": 2}
    [shown] = found.shown
    assert (shown.row, shown.place, shown.kinds) == (1, "row 1", ("only_a",))
    pair = shown.pairs[0]
    assert pair.a is not None
    assert "Q2 🎉<|im_end|>" in pair.a.text
    assert sentences(found, Sides("A", "B", "", ""))[-1].startswith("B does not train 2 stop tok")


def test_one_row_is_kept_whether_it_differs_or_not(folders: tuple[Path, Path, Path]) -> None:
    a, b, _ = folders
    assert [each.kinds for each in diff_prepared(a, b, row=0).shown] == [()]
    assert [each.kinds for each in diff_prepared(a, b, row=3).shown] == [("only_a",)]
    with pytest.raises(InputError, match="has 5 rows, numbered from 0: there is no row 5"):
        diff_prepared(a, b, row=5)


def test_what_was_prepared_from_other_rows_is_not_compared(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data = tmp_path / "one.jsonl"
    data.write_text(json.dumps({"messages": ONE}) + "\n")
    other = prepare([data], EncoderSource(str(DEMO_MODEL)), tmp_path / "other").folder
    with pytest.raises(PreparedDataError, match=r"from 5 rows and .* from 1") as info:
        diff_prepared(folders[0], other)
    assert info.value.reason == "other_data"


def test_a_tokenizer_that_is_gone_can_be_named(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    a, b, _ = folders
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in b.iterdir():
        text = file.read_bytes()
        if file.name == "manifest.json":
            text = text.replace(str(DEMO_MODEL).encode(), b"/no/such/folder")
        (moved / file.name).write_bytes(text)
    with pytest.raises(TokenizerError, match=r"no such tokenizer folder.*with --tokenizer"):
        diff_prepared(a, moved)
    assert diff_prepared(a, moved, tokenizer=str(DEMO_MODEL)).differing == 2


def test_a_folder_is_known_by_its_manifest(folders: tuple[Path, Path, Path]) -> None:
    assert is_prepared(folders[0])
    assert is_prepared("s3://bucket/prepared")
    assert not is_prepared(folders[0].parent)
