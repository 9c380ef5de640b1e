import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossmask import data_files
from lossmask.errors import InputError
from lossmask.row_picker import RowPicker


def written(path: Path, count: int, first: int = 0) -> Path:
    rows = [{"text": f"row {k}"} for k in range(first, first + count)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("count", [1, 63, 64, 128, 200])
def test_any_row_can_be_picked_in_any_order_and_the_end_is_found(
    tmp_path: Path, suffix: str, count: int
) -> None:
    picker = RowPicker([written(tmp_path / f"rows{suffix}", count)])
    for number in (count - 1, 0, count // 2, count - 1):
        assert picker.row(number).parse() == {"text": f"row {number}"}
    with pytest.raises(
        InputError, match=f"there are {count}, numbered from 0: there is no row {count}"
    ):
        picker.row(count)
    assert picker.count == count


def test_rows_of_several_files_are_numbered_on(tmp_path: Path) -> None:
    paths = [written(tmp_path / "a.jsonl", 70), written(tmp_path / "b.parquet", 70, first=70)]
    picker = RowPicker(paths)
    for number in (139, 69, 70, 0):
        raw = picker.row(number)
        assert raw.parse() == {"text": f"row {number}"}
        assert Path(raw.file).name == ("a.jsonl" if number < 70 else "b.parquet")
    for far in (10**9, -1):
        with pytest.raises(InputError, match="there is no row"):
            picker.row(far)
    assert picker.count == 140


def test_the_first_rows_are_read_without_those_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    lines = data_files._lines

    def counted(*given: object):  # type: ignore[no-untyped-def]
        nonlocal read
        for line in lines(*given):  # type: ignore[arg-type]
            read += 1
            yield line

    path = written(tmp_path / "rows.jsonl", 5000)
    picker = RowPicker([path])
    monkeypatch.setattr(data_files, "_lines", counted)
    assert picker.row(0).row == 0
    assert picker.row(63).row == 63
    assert read < 70
    assert picker.count is None


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("\n")
    picker = RowPicker([path])
    with pytest.raises(InputError, match="there is no row 0"):
        picker.row(0)


def test_a_missing_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        RowPicker([tmp_path / "missing.jsonl"])
