"""A table of raw rows becomes a table that holds every row, kept or rejected."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lossmask import Encoder, InputError
from lossmask.confinement import Limits
from lossmask.data_files import read_rows
from lossmask.embedded import DEMO_MODEL
from lossmask.encoded_rows import json_line
from lossmask.prepared import load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.table_batches import EncodedTable, TableEncoder, rows_of_table, table_of_rows
from tests.scenarios import assistant, user

SOURCE = EncoderSource(str(DEMO_MODEL))


@pytest.fixture(scope="module")
def encode() -> Iterator[TableEncoder]:
    encoder = TableEncoder(SOURCE.load, Limits())
    yield encoder
    encoder.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [json.dumps({"messages": [user(f"q {k}"), assistant(f"a {k}")]}) for k in range(4)]
    lines[1] = '{"half a character": "\\ud800"'
    path = tmp_path / "data.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_raw_rows_come_back_from_their_table(data: Path) -> None:
    rows = list(read_rows([data]))
    assert rows_of_table(table_of_rows(rows)) == rows
    assert rows_of_table(table_of_rows([])) == []


def test_a_table_ends_as_examples_rejections_and_counts(encode: TableEncoder, data: Path) -> None:
    table = encode(table_of_rows(list(read_rows([data]))))
    assert table.column("row").to_pylist() == [0, 2, 3, 1, None]
    assert [ids is not None for ids in table.column("input_ids").to_pylist()] == [
        *[True] * 3,
        False,
        False,
    ]
    assert [text is not None for text in table.column("rejection").to_pylist()] == [
        *[False] * 3,
        True,
        False,
    ]
    [counts] = table.column("counts").drop_null().to_pylist()
    assert [json.loads(counts)[name] for name in ("rows_in", "rows_kept", "rows_rejected")] == [
        4,
        3,
        1,
    ]
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode([user("q 2"), assistant("a 2")])
    row = table.to_pylist()[1]
    assert row["input_ids"] == example.input_ids.tolist()
    assert row["labels"] == example.labels.tolist()
    assert row["loss_weights"] == example.loss_weights.tolist()
    assert row["message_index"] == example.message_index.tolist()


def test_tables_put_together_hold_what_prepare_writes(
    encode: TableEncoder, data: Path, tmp_path: Path
) -> None:
    rows = list(read_rows([data]))
    parts = [encode(table_of_rows(part)) for part in (rows[2:], rows[:2])]
    encoded = EncodedTable.of(pa.concat_tables(parts, promote_options="default"))
    prepared = prepare([data], SOURCE, tmp_path / "out")
    assert encoded.counts == prepared.counts
    lines = "".join(json_line(each) for each in encoded.rejected)
    assert lines == (tmp_path / "out" / "rejected.jsonl").read_text()
    assert encoded.examples is not None
    table = encoded.examples.sort_by("row")
    written = load_prepared(tmp_path / "out")
    assert len(written) == table.num_rows == 3
    for k in range(3):
        assert table.column("input_ids")[k].as_py() == list(written[k]["input_ids"])


def test_a_table_without_examples_has_the_same_columns(encode: TableEncoder, data: Path) -> None:
    rows = list(read_rows([data]))
    some, none = encode(table_of_rows(rows[:1])), encode(table_of_rows(rows[1:2]))
    assert none.schema == some.schema
    encoded = EncodedTable.of(none)
    assert encoded.examples is None
    assert [each["row"] for each in encoded.rejected] == [1]
    assert EncodedTable.of(encode(table_of_rows([]))).counts.rows_in == 0


def test_a_table_of_other_columns_is_refused(encode: TableEncoder) -> None:
    with pytest.raises(InputError, match=r"expected a table with the columns file, .*, got text"):
        encode(pa.table({"text": ["Hi"]}))


def test_a_row_that_hangs_is_rejected_and_the_next_one_is_kept(tmp_path: Path) -> None:
    template = tmp_path / "hangs.jinja"
    template.write_text(HANGS)
    source = EncoderSource(str(DEMO_MODEL), chat_template=str(template))
    data = tmp_path / "data.jsonl"
    rows = [[user(text), assistant("A")] for text in ("Hi", "hang", "Ho")]
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    encode = TableEncoder(source.load, Limits(seconds=1))
    try:
        encoded = EncodedTable.of(encode(table_of_rows(list(read_rows([data])))))
    finally:
        encode.close()
    assert [(each["row"], each["reason"]) for each in encoded.rejected] == [(1, "template_limits")]
    assert encoded.examples is not None
    assert encoded.examples.column("row").to_pylist() == [0, 2]


def test_what_makes_a_table_encoder_can_be_sent_to_another_machine() -> None:
    load = pickle.loads(pickle.dumps(SOURCE.load))
    assert load().fingerprint() == SOURCE.load().fingerprint()


HANGS = (
    "{% for m in messages %}{% if m.content == 'hang' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
