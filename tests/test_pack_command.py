"""``lossmask pack``: how full packs are, and which example lies where, as typed and as drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lossmask.cli import main
from lossmask.pack_command import padded_tokens
from tests.tiny_models import write_prepared

LENGTHS = [3, 5, 8, 2, 4]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Examples of 3, 5, 8, 2 and 4 tokens, of input rows 0, 2, 4, 6 and 8; two are supervised."""
    examples = [
        {
            "input_ids": np.arange(length, dtype=np.int32),
            "labels": np.array([-100] * (length - 2) + [length - 2, length - 1], np.int32),
            "loss_weights": np.array([0] * (length - 2) + [1, 1], np.float32),
            "message_index": np.zeros(length, np.int32),
        }
        for length in LENGTHS
    ]
    return write_prepared(tmp_path / "prepared", [examples[:2], examples[2:]], rows=[0, 2, 4, 6, 8])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lossmask", "pack", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as info:
            main()
    output = capsys.readouterr()
    lines = [line.rstrip() for line in output.out.splitlines()]
    return int(info.value.code or 0), lines, " ".join(output.err.split())


def test_it_says_how_full_the_packs_are_and_what_padding_they_avoid(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = run(capsys, prepared, "--max-length", 8, "--batch-size", 5)
    assert code == 0
    assert lines == [
        "     5  examples, 22 tokens",
        "     3  packs of 8 tokens; no packing has fewer than 3",
        "   1.7  examples in a pack on average, 2 at most",
        "91.67%  of the packs is filled",
        "45.00%  of padded batches of 5 is padding: 18 positions that packs avoid",
    ]


def test_a_pack_is_drawn_with_the_place_of_each_example(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [option for number in range(3) for option in ("--show", number)]
    code, lines, _ = run(capsys, prepared, "--max-length", 8, *shown)
    assert code == 0
    titles = [at for at, line in enumerate(lines) if line.startswith("pack ")]
    drawn = {lines[at].split(": ")[1]: lines[at + 1 : at + 5] for at in titles}
    assert drawn["8 of 8 tokens (100.0%), 2 examples"] == [
        "█" * 48 + "▒" * 28,  # 5 and 3 eighths of 76
        "   example  input row  positions  tokens  supervised",
        "█        1          2  0 to 4          5     2 (40%)",
        "▒        0          0  5 to 7          3     2 (67%)",
    ]
    assert drawn["6 of 8 tokens (75.0%), 2 examples"] == [
        "█" * 38 + "▒" * 19 + "·" * 19,
        "   example  input row  positions  tokens  supervised",
        "█        4          8  0 to 3          4     2 (50%)",
        "▒        3          6  4 to 5          2     1 (50%)",
    ]
    assert drawn["8 of 8 tokens (100.0%), 1 example"][2].split() == [
        *["█", "2", "4", "0", "to", "7", "8", "2", "(25%)"]
    ]
    assert max(map(len, lines)) <= 80


def test_the_seed_moves_the_packs(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [
        run(capsys, prepared, "--max-length", 8, "--show", 0, "--seed", seed)[1][6]
        for seed in range(8)
    ]
    assert len(set(first)) == 3


def test_an_example_that_does_not_fit_is_named_with_its_row(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, prepared, "--max-length", 7)
    assert code == 1
    assert "error (document_too_long)" in error
    assert "example 2 (input row 4) has 8 tokens, and a pack has room for 7." in error


def test_a_pack_that_is_not_there_is_refused(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (3, -1):
        code, _, error = run(capsys, prepared, "--max-length", 8, "--show", number)
        assert code == 1
        assert f"no pack {number}: the 3 packs are numbered from 0 to 2" in error


def test_padding_is_counted_batch_by_batch() -> None:
    lengths = np.array([4, 4, 4, 4, 4])
    assert padded_tokens(lengths, 2, seed=0) == 20
    lengths = np.array([1, 9, 1, 9, 1])
    first, second, third, fourth, last = np.random.default_rng(3).permutation(lengths).tolist()
    expected = 2 * max(first, second) + 2 * max(third, fourth) + last
    assert padded_tokens(lengths, 2, seed=3) == expected
