"""What Ray nodes write is what one machine writes, byte by byte, and a lost node loses nothing."""

from __future__ import annotations

import hashlib
import json
import pickle
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossmask import LossmaskError, PolicyError, preparing, ray_engine
from lossmask.confinement import Limits
from lossmask.data_files import RawRow, places_of_chunks, read_rows
from lossmask.embedded import DEMO_MODEL
from lossmask.output_folder import OutputFolder
from lossmask.prepared import load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.raw_rows import Place
from lossmask.ray_engine import RayJob, connected_to_ray, encode_on_ray, ray_job
from tests.scenarios import assistant, user

SOURCE = EncoderSource(str(DEMO_MODEL))
LIMITS = Limits(seconds=2)
TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'hang' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{% if m.content == 'slow' %}{% for a in range(99999) %}{% endfor %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def lines(count: int, first: int = 0) -> list[str]:
    return [
        json.dumps({"messages": [user(f"question {k}"), assistant(f"answer {k}")]})
        if k % 7
        else "{broken"
        for k in range(first, first + count)
    ]


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(row + "\n" for row in rows))
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def job(tmp_path: Path) -> RayJob:
    """A job of 25 rows in chunks of 10, begun."""
    data = write(tmp_path / "data.jsonl", lines(25))
    out = OutputFolder(tmp_path / "out", "of the test")
    out.begin()
    return ray_job([data], SOURCE, Limits(), 10, out, SOURCE.load().fingerprint())


@pytest.fixture(autouse=True)
def _no_processes_left() -> Iterator[None]:
    yield
    close_writers()


def close_writers() -> None:
    for writer in ray_engine._writers.values():
        writer.close()
    ray_engine._writers.clear()


def answers(job: RayJob) -> list[tuple[int, int, bytes | None]]:
    """Do what Ray's tasks do, here."""
    places = list(places_of_chunks(job.paths, job.rows_per_chunk))
    tables = [ray_engine._write_chunks(block, job) for block in ray_engine._blocks(places)]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def error_of(job: RayJob) -> LossmaskError:
    [*_, (_, _, error)] = answers(job)
    assert error is not None
    found = pickle.loads(error)
    assert isinstance(found, LossmaskError)
    return found


def test_a_chunk_is_written_once_and_its_size_told(job: RayJob, tmp_path: Path) -> None:
    rows = [len(line) + 1 for line in lines(25)]
    sizes = [sum(rows[:10]), sum(rows[10:20]), sum(rows[20:])]
    assert answers(job) == [(k, size, None) for k, size in enumerate(sizes)]
    stamp = (tmp_path / "out" / "unfinished" / "part-00001.parquet").stat().st_mtime_ns
    assert answers(job) == [(0, 0, None), (1, 0, None), (2, 0, None)]
    assert (tmp_path / "out" / "unfinished" / "part-00001.parquet").stat().st_mtime_ns == stamp
    records = dict(OutputFolder(tmp_path / "out", "of the test").records())
    assert [records[k]["counts"]["rows_in"] for k in range(3)] == [10, 10, 5]
    assert [each["row"] for k in range(3) for each in records[k]["rejected"]] == [0, 7, 14, 21]


def test_files_that_are_read_from_their_beginning_are_read_once_for_places_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / "a.csv", ["prompt,completion", *(f"q{k},a{k}" for k in range(25))])]
    places = list(places_of_chunks(paths, 5))
    opened: list[int] = []

    def read(paths: Sequence[Path], place: Place) -> Iterator[RawRow]:
        opened.append(place.row)
        return read_rows(paths, place)

    monkeypatch.setattr(ray_engine, "read_rows", read)
    rows = ray_engine._Rows(paths)
    order = [0, 1, 3, 4, 2]
    taken = [[raw.row for raw in rows.take(places[k], 5)] for k in order]
    assert taken == [list(range(5 * k, 5 * k + 5)) for k in order]
    assert opened == [0, 10]


def test_a_node_that_does_not_see_the_output_refuses_to_write(job: RayJob, tmp_path: Path) -> None:
    error = error_of(replace(job, output=tmp_path / "elsewhere"))
    assert error.reason == "not_shared"
    assert "does not see" in error.detail
    assert not (tmp_path / "elsewhere").exists()


def test_a_node_that_does_not_see_the_data_refuses_to_write(job: RayJob, tmp_path: Path) -> None:
    error = error_of(replace(job, size=7))
    assert error.reason == "not_shared"
    assert "does not see the data" in error.detail


def test_a_node_with_other_code_refuses_to_write(job: RayJob) -> None:
    error = error_of(replace(job, code="other"))
    assert error.reason == "other_versions"
    assert "install the same on both" in error.detail


def test_a_node_with_another_tokenizer_refuses_to_write(job: RayJob) -> None:
    error = error_of(replace(job, encoder="other"))
    assert error.reason == "not_shared"
    assert f"another tokenizer or template from {DEMO_MODEL}" in error.detail


def test_the_rows_of_a_job_are_told_by_the_paths_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.jsonl", lines(5))
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    out = OutputFolder(Path("out"), "of the test")
    out.begin()
    source = replace(SOURCE, chat_template="template.jinja")
    fingerprint = source.load().fingerprint()
    job = ray_job([Path("data.jsonl")], source, Limits(), 10, out, fingerprint)
    monkeypatch.chdir("/")
    answers(job)
    [(_, record)] = OutputFolder(tmp_path / "out", "of the test").records()
    assert [each["file"] for each in record["rejected"]] == ["data.jsonl"]


def test_templates_that_are_text_or_a_style_stay_what_they_are(job: RayJob, tmp_path: Path) -> None:
    out = OutputFolder(tmp_path / "out", "of the test")
    for template in (TEMPLATE, "alpaca", None):
        source = replace(SOURCE, chat_template=template)
        assert ray_job([], source, Limits(), 10, out, "").source.chat_template == template


def test_the_error_of_a_node_ends_the_run_and_stops_the_tasks_of_the_others(
    job: RayJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_pass(job: RayJob, places: list[Place], *rest: object) -> Iterator[Any]:
        for number, block in enumerate(ray_engine._blocks(places)):
            on_node = job
            if number == 1:
                close_writers()
                on_node = replace(job, code="other")
            for row in ray_engine._write_chunks(block, on_node).to_pylist():
                yield tuple(row.values())

    monkeypatch.setattr(ray_engine, "_pass", one_pass)
    with pytest.raises(LossmaskError, match="has another version of lossmask"):
        encode_on_ray(job, 1, lambda done: None)
    out = OutputFolder(tmp_path / "out", "of the test")
    assert [number for number, _ in out.records()] == [0]


def test_chunks_that_ray_gave_up_are_handed_out_again(
    job: RayJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[list[int], bool]] = []

    def one_pass(job: RayJob, places: list[Any], workers: int, is_strict: bool) -> Any:
        passes.append(([place.row for place in places], is_strict))
        if is_strict:
            raise RuntimeError("node 10.0.0.7 ran out of memory")
        return iter([(0, 7, None)] if len(passes) == 1 else [])

    monkeypatch.setattr(ray_engine, "_pass", one_pass)
    told: list[int] = []
    with pytest.raises(
        LossmaskError, match=r"Ray cannot go on: node 10\.0\.0\.7 ran out of memory"
    ):
        encode_on_ray(job, 1, told.append)
    assert passes == [([0, 10, 20], False), ([10, 20], False), ([10, 20], True)]
    assert told == [7]


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", lines(1))
    with pytest.raises(PolicyError, match="engine is 'spark'; allowed: local, ray"):
        prepare([data], SOURCE, tmp_path / "out", engine="spark")  # type: ignore[arg-type]


def test_without_ray_the_command_to_install_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    data = write(tmp_path / "data.jsonl", lines(1))
    with pytest.raises(PolicyError, match=r'pip install "lossmask\[ray\]"'):
        prepare([data], SOURCE, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        expected = rf"cannot connect to Ray at {address}: .*refused.*`ray status`"
        with pytest.raises(LossmaskError, match=expected), connected_to_ray(address, 0):
            pass
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(LossmaskError, match=expected), connected_to_ray(None, 0):
            pass


# --- on a cluster ---------------------------------------------------------------------------------

on_a_cluster = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them"),
    # of Ray's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a processor each, which this process is connected to."""
    pytest.importorskip("ray", reason="needs ray")
    with (
        pytest.MonkeyPatch.context() as patch,
        # short: sockets lie in it; some processes still write to it when it is removed
        TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temporary,
    ):
        for name, value in {
            "RAY_TMPDIR": temporary,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # or Ray looks for one in the home folder
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray
        from ray._raylet import Config  # type: ignore[attr-defined]
        from ray.cluster_utils import Cluster

        Config.initialize("")  # reads the environment anew, where ray was imported before
        node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(**node)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            cluster.wait_for_nodes()
            yield SimpleNamespace(cluster=cluster, node=node)
        finally:
            ray.shutdown()
            cluster.shutdown()


class TestOnACluster:
    pytestmark = on_a_cluster

    def test_a_connection_that_is_there_is_used_and_kept(self, cluster: Any) -> None:
        import ray

        with connected_to_ray(None, 0) as workers:
            assert workers == 2
        assert ray.is_initialized()
        with connected_to_ray(cluster.cluster.address, 5) as workers:
            assert workers == 5
        with pytest.raises(
            LossmaskError, match=r"is connected to Ray at .*, not at 10\.0\.0\.1:1:"
        ):
            connected_to_ray("10.0.0.1:1", 0).__enter__()
        assert ray.is_initialized()

    def test_files_of_any_kind_give_the_bytes_that_one_machine_writes(
        self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 10)
        rows = [{"prompt": f"question {k}", "completion": f"answer {k}"} for k in range(33)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=7)
        data = [
            write(tmp_path / "a.jsonl", ["", *lines(24), "", ""]),
            tmp_path / "b.parquet",
            write(tmp_path / "c.csv", ["prompt,completion", *(f"q{k},a{k}" for k in range(15))]),
            write(tmp_path / "d.jsonl", []),
            write(tmp_path / "e.jsonl", lines(3, 50)),
        ]
        one = prepare(data, SOURCE, tmp_path / "one")
        told: list[int] = []
        many = prepare(data, SOURCE, tmp_path / "many", engine="ray", progress=told.append)
        assert many.counts == one.counts
        assert one.counts.rows_in == 24 + 33 + 15 + 3
        assert digests(tmp_path / "many") == digests(tmp_path / "one")
        assert len(load_prepared(tmp_path / "many")) == one.counts.examples
        assert sum(told) <= sum(path.stat().st_size for path in data)

    def test_a_node_killed_midway_loses_nothing_and_a_row_that_hangs_is_rejected(
        self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 5)
        template = tmp_path / "template.jinja"
        template.write_text(TEMPLATE)
        source = replace(SOURCE, chat_template=str(template))
        rows = lines(60)
        for k in range(0, 60, 5):
            rows[k] = json.dumps({"messages": [user("slow"), assistant(f"answer {k}")]})
        rows[42] = json.dumps({"messages": [user("hang"), assistant("never")]})
        data = write(tmp_path / "data.jsonl", rows)
        doomed = cluster.cluster.add_node(**cluster.node)
        cluster.cluster.wait_for_nodes()
        killed: list[Path] = []

        def kill_at_work(done: int) -> None:
            if not killed:
                killed.append(claim_of(doomed, tmp_path / "many" / "unfinished"))
                cluster.cluster.remove_node(doomed, allow_graceful=False)

        many = prepare(
            [data],
            source,
            tmp_path / "many",
            engine="ray",
            workers=3,
            limits=LIMITS,
            progress=kill_at_work,
        )
        assert killed
        one = prepare([data], source, tmp_path / "one", workers=2, limits=LIMITS)
        assert many.counts == one.counts
        assert one.counts.rejections == {"broken_json": 6, "template_limits": 1}
        assert digests(tmp_path / "many") == digests(tmp_path / "one")


def claim_of(node: Any, unfinished: Path) -> Path:
    """Wait until a process of a node works on a chunk, and return its claim."""
    [raylet] = node.all_processes["raylet"]
    for _ in range(2000):
        for claim in unfinished.glob("[0-9]*.claim"):
            with suppress(OSError, ValueError):
                process = json.loads(claim.read_text())["process"]
                status = Path(f"/proc/{process}/stat").read_text()
                if int(status.rpartition(")")[2].split()[1]) == raylet.process.pid:
                    return claim
        time.sleep(0.01)
    raise AssertionError("the node that is to be killed never worked on a chunk")
