"""What a fork server loads once, for whom, and that it starts no thread that a fork would lose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lossmask import Encoder, inherited_encoder
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.inherited_encoder import VARIABLE, Inherited, Order, place_of_order
from lossmask.preparing import EncoderSource
from lossmask.workers import Workers, encode_apart
from tests import corpus
from tests.test_workers import chunk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork servers")

SOURCE = EncoderSource(str(DEMO_MODEL), stop_tokens=("<|im_end|>",))


def in_server(order: Order, cache: Path, report: str, *, without_torch: bool = True) -> Any:
    """Import the module as a fork server does, in a process of its own; return what it reports.

    Args:
        order: What the server is to load.
        cache: Where facts are remembered.
        report: An expression; ``inherited`` is the encoder, ``threads`` how many threads came.
        without_torch: Whether the server does without torch.
    """
    read_end, write_end = os.pipe()
    os.write(write_end, order.to_bytes())
    os.close(write_end)
    place = place_of_order(os.getpid(), read_end, without_torch=without_torch)
    code = (
        "import json, os, sys, numpy, pyarrow.parquet\n"
        "def count(): return len(os.listdir('/proc/self/task'))\n"
        "before = count()\n"
        "from lossmask import inherited_encoder\n"
        "threads = count() - before\n"
        "inherited = inherited_encoder._inherited and inherited_encoder._inherited[1]\n"
        f"print(json.dumps({report}))"
    )
    environment = {**os.environ, VARIABLE: place, "LOSSMASK_CACHE": str(cache)}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    os.close(read_end)
    assert ran.stderr == ""
    return json.loads(ran.stdout)


def test_no_thread_is_started_before_the_fork(tmp_path: Path) -> None:
    encoder = SOURCE.load()
    encoder.row_batches.expect_many()  # remembers that the backend is exact, or why it is not used
    is_read = "inherited.row_batches._vocabulary is not None"
    why_not_fast = "inherited._setting.tokenizer.why_not_fast"
    report = f"[threads, {why_not_fast}, {is_read}, *inherited.stop_ids]"
    cache = Path(os.environ["LOSSMASK_CACHE"])
    order = Order("a", SOURCE.load, True)
    threads, why_not, is_vocabulary_read, *stops = in_server(order, cache, report)
    assert (threads, is_vocabulary_read) == (0, True)
    assert why_not == encoder._setting.tokenizer.why_not_fast  # type: ignore[attr-defined]
    assert frozenset(stops) == encoder.stop_ids
    unknown = in_server(order, tmp_path, report)
    assert unknown[:2] == [0, "nothing has proven it yet"]
    assert not list(tmp_path.iterdir())


def test_torch_is_left_out_where_that_is_ordered_and_the_encoder_is_the_same(
    tmp_path: Path,
) -> None:
    report = (
        "['torch' in sys.modules and sys.modules['torch'] is not None, inherited.fingerprint()]"
    )
    order = Order("a", SOURCE.load, False)
    with_torch = in_server(order, tmp_path, report, without_torch=False)
    without = in_server(order, tmp_path, report)
    assert with_torch == [True, SOURCE.load().fingerprint()]
    assert without == [False, SOURCE.load().fingerprint()]


def loaded_by_itself(places: list[str], *, without_torch: bool) -> dict[str, str]:
    """Load tokenizers in a process of its own; return the fingerprint of each, or why not."""
    code = (
        "import json, sys\n"
        "from functools import partial\n"
        "from lossmask import LossmaskError\n"
        "from lossmask.inherited_encoder import leave_torch_out, load_apart\n"
        "from lossmask.preparing import EncoderSource\n"
        f"if {without_torch}: leave_torch_out()\n"
        "def fingerprint(place):\n"
        "    source = EncoderSource(place, chat_template='{{ 1 }}')\n"
        "    try: return load_apart(source.load).fingerprint()\n"
        "    except LossmaskError as error: return str(error)\n"
        "found = {place: fingerprint(place) for place in sys.argv[1:]}\n"
        f"assert (sys.modules['torch'] is None) is {without_torch}\n"
        "print(json.dumps(found))"
    )
    command = [sys.executable, "-c", code, *places]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@corpus.needs_corpus
def test_every_tokenizer_of_the_corpus_is_the_same_without_torch() -> None:
    places = [str(path) for path in sorted((corpus.ROOT / "tokenizers").iterdir()) if path.is_dir()]
    without = loaded_by_itself(places, without_torch=True)
    assert without == loaded_by_itself(places, without_torch=False)
    assert len({*without.values()}) > 20


def test_an_encoder_that_cannot_be_loaded_is_left_to_the_workers(tmp_path: Path) -> None:
    order = Order("a", EncoderSource("/nowhere").load, True)
    assert in_server(order, tmp_path, "[inherited, inherited_encoder.VARIABLE in os.environ]") == [
        None,
        False,
    ]


def fail() -> Encoder:
    raise AssertionError("it was to be inherited")


def test_only_those_inherit_it_for_whom_it_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SOURCE.load()
    monkeypatch.setattr(inherited_encoder, "_inherited", ("a", encoder))
    assert Inherited("a", fail)() is encoder
    assert Inherited("b", lambda: encoder)() is encoder
    with pytest.raises(AssertionError, match="it was to be inherited"):
        Inherited("b", fail)()
    monkeypatch.setattr(inherited_encoder, "_inherited", None)
    with pytest.raises(AssertionError, match="it was to be inherited"):
        Inherited("a", fail)()


def stop_ids(encoder: Encoder) -> list[int]:
    return sorted(encoder.stop_ids)


SCRIPT = """
import sys
from pathlib import Path
from lossmask import Encoder, inherited_encoder
from lossmask.confinement import Limits
from lossmask.preparing import EncoderSource
from lossmask.workers import Workers

def is_inherited(encoder):
    return inherited_encoder._inherited is not None and encoder is inherited_encoder._inherited[1]

def ids(encoder):
    tokenizer = encoder._setting.tokenizer
    return [is_inherited(encoder), *tokenizer.encode_flat(["Hello there"] * 300)[0].tolist()]

def main():
    template = Path(sys.argv[2])
    source = EncoderSource(sys.argv[1], chat_template=str(template))
    with Workers(source.load, Limits(), expects_many=True) as workers:
        workers.start(2)
        template.write_text("changed")
        print(is_inherited(None), workers.ask(is_inherited), *workers.ask(ids))
        print(len(workers.ask(Encoder.chat_template)))
    with Workers(source.load, Limits(), expects_many=True) as workers:
        print(workers.ask(is_inherited), workers.ask(Encoder.chat_template))

if __name__ == "__main__":
    main()
"""


def test_workers_inherit_it_and_those_that_come_later_load_it_anew(tmp_path: Path) -> None:
    encoder = SOURCE.load()
    encoder.row_batches.expect_many()  # proves the fast backend, which starts threads in workers
    script, template = tmp_path / "script.py", tmp_path / "template.jinja"
    script.write_text(SCRIPT)
    template.write_text(encoder.chat_template())
    command = [sys.executable, str(script), str(DEMO_MODEL), str(template)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    ids = encoder.tokenizer("Hello there")["input_ids"] * 300
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        " ".join(map(str, [False, True, True, *ids])),
        str(len(encoder.chat_template())),
        "False changed",
    ]


def crash(encoder: Encoder) -> None:
    os._exit(9)


def test_a_process_that_ends_while_it_is_asked_is_an_error() -> None:
    with Workers(SOURCE.load, Limits(), method="fork") as workers:
        assert workers.ask(stop_ids) == sorted(SOURCE.load().stop_ids)
        with pytest.raises(Exception, match=r"ended outside of any row \(exit code 9\)"):
            workers.ask(crash)
        assert workers.ask(stop_ids) == sorted(SOURCE.load().stop_ids)
    with (
        Workers(fail, Limits(), method="fork") as workers,
        pytest.raises(AssertionError, match="it was to be inherited"),
    ):
        workers.ask(stop_ids)


def note_torch(notes: Path) -> Encoder:
    notes.write_text(str("torch" in sys.modules and sys.modules["torch"] is None))
    return SOURCE.load()


def test_a_process_that_may_need_torch_does_not_leave_it_out(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    [raw] = chunk("a").rows
    encode_apart(raw, partial(note_torch, notes), Limits())
    assert notes.read_text() == "False"
