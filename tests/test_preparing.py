"""Every row is accounted for, and a killed run gives the same bytes."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lossmask import (
    Encoder,
    InputError,
    LossmaskError,
    Outcome,
    PreparedDataError,
    Rejection,
    preparing,
)
from lossmask.confinement import Limits
from lossmask.data_files import RawRow
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import BackendDiffers
from lossmask.max_rejected import MaxRejected
from lossmask.output_folder import OutputFolder
from lossmask.prepared import load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.workers import Workers
from tests import corpus
from tests.scenarios import assistant, user

SOURCE = EncoderSource(str(DEMO_MODEL))


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def good(number: int) -> dict[str, Any]:
    return {"messages": [user(f"question {number}"), assistant(f"answer {number}")]}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_row_is_kept_or_rejected_with_its_place(tmp_path: Path) -> None:
    rows = [good(0), "{broken", good(2), {"txt": "x"}, "", {"messages": [user("only")]}, "[1]"]
    data = write(tmp_path / "data.jsonl", rows)
    counts = prepare([data], SOURCE, tmp_path / "out").counts
    assert (counts.rows_in, counts.rows_kept, counts.rows_rejected) == (6, 2, 4)
    assert counts.rejections == Counter(broken_json=2, unknown_format=1, no_assistant=1)
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    rejected = [json.loads(line) for line in lines]
    assert [(r["row"], r["line"], r["reason"]) for r in rejected] == [
        (1, 2, "broken_json"),
        (3, 4, "unknown_format"),
        (4, 6, "no_assistant"),
        (5, 7, "broken_json"),
    ]
    assert [r["original"] for r in rejected] == ["{broken", {"txt": "x"}, rows[5], "[1]"]
    assert {r["file"] for r in rejected} == {str(data)}


def test_shards_hold_exactly_what_the_encoder_gives(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0), good(1)])
    prepare([data], SOURCE, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pydict()
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    for number in range(2):
        [example] = encoder.encode(good(number)["messages"])
        assert table["row"][number] == number
        assert table["input_ids"][number] == example.input_ids.tolist()
        assert table["labels"][number] == example.labels.tolist()
        assert table["loss_weights"][number] == example.loss_weights.tolist()
        assert table["message_index"][number] == example.message_index.tolist()


def test_manifest_says_what_was_done(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0), "{"])
    counts = prepare([data], SOURCE, tmp_path / "out").counts
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["rows_in"], manifest["rows_kept"], manifest["rows_rejected"]) == (2, 1, 1)
    assert manifest["shards"] == [{"file": "part-00000.parquet", "examples": 1}]
    assert manifest["tokens"] == counts.tokens
    assert manifest["policy"]["history"] == "expand"
    assert manifest["chat_template"].startswith("{%")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "part-00000.parquet",
        "rejected.jsonl",
    ]


def test_the_result_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 10)
    data = write(tmp_path / "data.jsonl", [good(n) if n % 7 else "{" for n in range(45)])
    one = prepare([data], SOURCE, tmp_path / "one", workers=1).counts
    two = prepare([data], SOURCE, tmp_path / "two", workers=2).counts
    assert one.to_mapping() == two.to_mapping()
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 5 + 2


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0)])
    first = prepare([data], SOURCE, tmp_path / "out").counts
    stamp = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    assert prepare([data], SOURCE, tmp_path / "out").counts.to_mapping() == first.to_mapping()
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == stamp


def test_a_folder_prepared_from_something_else_is_left_alone_unless_told(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0)])
    prepare([data], SOURCE, tmp_path / "out")
    before = digests(tmp_path / "out")
    write(data, [good(1)])
    with pytest.raises(PreparedDataError, match="is not empty and was not prepared from this"):
        prepare([data], SOURCE, tmp_path / "out")
    assert digests(tmp_path / "out") == before
    prepare([data], SOURCE, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") != before


def test_overwrite_never_removes_files_of_others(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(PreparedDataError, match=r"did not write \(thesis.tex\)"):
        prepare([data], SOURCE, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_folder_with_files_of_others_loses_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0)])
    prepare([data], SOURCE, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = digests(tmp_path / "out")
    write(data, [good(1)])
    with pytest.raises(PreparedDataError, match=r"did not write \(notes.txt\)"):
        prepare([data], SOURCE, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == before


def test_other_limits_are_another_run(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0)])
    prepare([data], SOURCE, tmp_path / "out", limits=Limits(60, 4))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["limits"] == {"seconds": 60, "gibibytes": 4}
    prepare([data], SOURCE, tmp_path / "out")
    with pytest.raises(PreparedDataError, match="policy, fit and limits: choose another folder"):
        prepare([data], SOURCE, tmp_path / "out", limits=Limits(60, 5))


def test_files_without_rows_are_an_error_and_replace_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", ["", ""])
    with pytest.raises(InputError, match="no rows in"):
        prepare([data], SOURCE, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare([write(tmp_path / "other.jsonl", [good(0)])], SOURCE, tmp_path / "out")
    before = digests(tmp_path / "out")
    with pytest.raises(InputError, match="no rows in"):
        prepare([data], SOURCE, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == before


def test_progress_ends_at_the_size_of_the_rows(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0), "{", good(2)])
    told: list[int] = []
    prepare([data], SOURCE, tmp_path / "out", progress=told.append)
    assert sum(told) == data.stat().st_size
    prepare([data], SOURCE, tmp_path / "out", progress=told.append)
    assert sum(told) == 2 * data.stat().st_size


@pytest.mark.slow
def test_an_interrupt_from_the_keyboard_ends_a_row_that_hangs(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0), {"messages": [user("x"), assistant("y")]}])
    template = tmp_path / "hangs.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.content == 'x' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}<|im_end|>"
        "{% endfor %}"
    )
    command = [sys.executable, "-m", "lossmask.cli", "prepare", str(data), "-t", str(DEMO_MODEL)]
    run = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out"), "--chat-template", str(template)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while run.poll() is None and not (tmp_path / "out" / "unfinished" / "fingerprint").exists():
        time.sleep(0.01)
    time.sleep(1)
    os.killpg(run.pid, signal.SIGINT)
    started = time.monotonic()
    out, err = run.communicate()  # returns when no process holds the pipes any more
    assert time.monotonic() - started < 20  # the row may take a minute and more
    assert run.returncode not in (0, None)
    assert "Traceback" not in out + err


def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(n) if n % 9 else "{" for n in range(200)])
    program = (
        "import sys; from pathlib import Path; from lossmask import preparing as p\n"
        "p.ROWS_PER_SHARD = 10\n"
        "p.prepare([Path(sys.argv[1])], p.EncoderSource(sys.argv[2]), Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", program, str(data), str(DEMO_MODEL)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    records = tmp_path / "killed" / "unfinished"
    run = subprocess.Popen([*command, str(tmp_path / "killed")])
    while run.poll() is None and len(list(records.glob("*.json"))) < 3:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@corpus.needs_corpus
def test_published_conversations_are_all_accounted_for(tmp_path: Path) -> None:
    data = corpus.ROOT / "datasets" / "lf-glaive-toolcall-en-demo.messages.jsonl"
    source = EncoderSource(str(corpus.ROOT / "tokenizers" / "minimind"))
    counts = prepare([data], source, tmp_path / "out").counts
    assert counts.rows_in == 300 == counts.rows_kept + counts.rows_rejected
    assert counts.rows_kept == 300


class Inline:
    """Workers in the place of processes: encodes in this one."""

    def __init__(self, load: Any, limits: Limits, *, expects_many: bool) -> None:
        self._encoder = load()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def start(self, count: int) -> None:
        pass

    def ask(self, question: Callable[[Encoder], Any]) -> Any:
        return question(self._encoder)

    def try_template(self, rows: Iterable[RawRow], count: int) -> None:
        pass

    def encode(self, chunks: Iterable[Any], count: int, progress: Any) -> Iterator[Any]:
        for chunk in chunks:
            for raw in chunk.rows:
                try:
                    outcome = self._encoder.encode_row(raw.parse())
                except LossmaskError as error:
                    outcome = Outcome(rejection=Rejection.from_error(error))
                chunk.results.add(raw, outcome)
            chunk.results.close()
            yield chunk


OPERATIONS = (
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "open"),
    (Path, "mkdir"),
    (os, "fsync"),
    (os, "unlink"),
    (os, "rmdir"),
)
"""What changes files, or comes right before or behind it."""


def in_child(work: Callable[[], object]) -> int:
    """Run something in a fork of this process; return how that ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numpy that idle
        child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counting_operations(kill_at: int | None, path: Path) -> None:
    """Count the operations on files from here on, and die right before one of them."""
    count = 0

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            with builtins.open(path, "w") as stream:
                stream.write(str(count))
            return operation(*arguments, **options)

        return run

    for owner, name in OPERATIONS:
        setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(
    "replaces",
    [
        pytest.param(False, id="new"),
        pytest.param(True, id="replacing another output", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_at_any_operation_on_files_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    monkeypatch.setattr(preparing, "Workers", Inline)
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 4)
    data = write(tmp_path / "data.jsonl", [good(n) if n % 5 else "{" for n in range(14)])
    old = write(tmp_path / "old.jsonl", [good(n) for n in range(40)])
    SOURCE.load().encode_row(good(0))  # the template is proven before
    counter = tmp_path / "count"

    def run(out: Path, kill_at: int | None = None) -> int:
        def work() -> None:
            counting_operations(kill_at, counter)
            prepare([data], SOURCE, out, overwrite=True)

        return in_child(work)

    prepare([old], SOURCE, tmp_path / "before")
    manifest = (tmp_path / "before" / "manifest.json").read_bytes()
    expected = {}
    if replaces:
        shutil.copytree(tmp_path / "before", tmp_path / "whole")
    assert run(tmp_path / "whole") == 0
    operations = int(counter.read_text())
    expected = digests(tmp_path / "whole")
    assert operations >= 25
    untouched = 0
    for kill_at in range(operations):
        out = tmp_path / str(kill_at)
        if replaces:
            shutil.copytree(tmp_path / "before", out)
        assert run(out, kill_at) == -signal.SIGKILL
        if replaces and (out / "manifest.json").exists():
            untouched += (out / "manifest.json").read_bytes() == manifest
            load_prepared(out)  # the old output or the new one, and whole
        assert run(out) == 0
        assert digests(out) == expected
        shutil.rmtree(out)
    assert untouched >= operations // 2 or not replaces


def test_a_run_that_another_one_overtakes_finds_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write(tmp_path / "data.jsonl", [good(n) for n in range(3)]), tmp_path / "out"
    written: list[int] = []
    write_chunk, try_template = OutputFolder.write_chunk, Workers.try_template

    def note(self: OutputFolder, number: int, *others: Any) -> None:
        written.append(number)
        write_chunk(self, number, *others)

    def be_overtaken(self: Workers, rows: Iterable[RawRow], count: int) -> None:
        monkeypatch.setattr(Workers, "try_template", try_template)
        prepare([data], SOURCE, out)
        try_template(self, rows, count)

    monkeypatch.setattr(OutputFolder, "write_chunk", note)
    monkeypatch.setattr(Workers, "try_template", be_overtaken)
    assert prepare([data], SOURCE, out).counts.rows_kept == 3
    assert written == [0]
    assert not (out / "unfinished").exists()


def test_two_runs_on_one_folder_share_the_work(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(n) if n % 9 else "{" for n in range(200)])
    program = (
        "import sys; from pathlib import Path; from lossmask import preparing as p\n"
        "p.ROWS_PER_SHARD = 10\n"
        "written = []; write = p.OutputFolder.write_chunk\n"
        "def note(self, number, shard, record):\n"
        "    written.append(number); write(self, number, shard, record)\n"
        "p.OutputFolder.write_chunk = note\n"
        "p.prepare([Path(sys.argv[1])], p.EncoderSource(sys.argv[2]), Path(sys.argv[3]))\n"
        "print(*written)\n"
    )

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(data), str(DEMO_MODEL), str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    runs = [start(tmp_path / name) for name in ("out", "out", "alone")]
    written = [run.communicate()[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")
    assert sorted(map(int, written[0] + written[1])) == list(range(20))  # each chunk once


def test_more_rejected_rows_than_allowed_fail_the_run_and_lose_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [good(0), "{", good(2), good(3)])
    out = tmp_path / "out"
    with pytest.raises(PreparedDataError, match=r"1 of 4 rows \(25.00%\) are rejected, more than"):
        prepare([data], SOURCE, out, max_rejected=MaxRejected.parse("1%"))
    assert not (out / "manifest.json").exists()
    [rejected] = (out / "unfinished" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["row"] == 1
    counts = prepare([data], SOURCE, out, max_rejected=MaxRejected.parse("1")).counts
    assert (counts.rows_kept, counts.rows_rejected) == (3, 1)
    prepare([data], SOURCE, tmp_path / "other")
    assert digests(out) == digests(tmp_path / "other")


def test_without_an_output_the_same_is_prepared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSMASK_CACHE", str(tmp_path / "cache"))
    data = write(tmp_path / "data.jsonl", [good(0)])
    first = prepare([data], SOURCE)
    assert first.folder.parent == tmp_path / "cache" / "prepared"
    with monkeypatch.context() as patched:
        patched.setattr(preparing, "_encode_all", None)  # nothing is encoded
        assert prepare([data], SOURCE).folder == first.folder
    template = tmp_path / "template.jinja"
    template.write_text(SOURCE.load().chat_template())
    same = prepare([data], replace(SOURCE, chat_template=str(template)))
    template.write_text(SOURCE.load().chat_template() + "{# edited #}")
    edited = prepare([data], replace(SOURCE, chat_template=str(template)))
    assert len({first.folder, same.folder, edited.folder}) == 3


def test_a_backend_that_is_not_exact_after_all_gives_way_to_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Differing(Inline):
        def __init__(self, load: Any, limits: Limits, *, expects_many: bool) -> None:
            super().__init__(load, limits, expects_many=expects_many)
            self.is_fast = self._encoder._fast

        def encode(self, chunks: Iterable[Any], count: int, progress: Any) -> Iterator[Any]:
            for number, chunk in enumerate(super().encode(chunks, count, progress)):
                if number and self.is_fast:
                    raise BackendDiffers("fastokens gives other ids")
                yield chunk

    monkeypatch.setattr(preparing, "Workers", Differing)
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 2)
    data = write(tmp_path / "data.jsonl", [good(n) for n in range(6)])
    told: list[str] = []
    prepare([data], SOURCE, tmp_path / "out", notice=told.append)
    assert told == ["fastokens gives other ids: starting again with the tokenizer itself"]
    prepare([data], replace(SOURCE, fast=False), tmp_path / "slow")
    assert digests(tmp_path / "out") == digests(tmp_path / "slow")
