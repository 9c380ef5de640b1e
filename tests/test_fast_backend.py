"""The fast backend gives the tokenizer's own ids, or is not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, fast_backend
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import BackendDiffers
from lossmask.fast_backend import FastBackend, probe_texts, reference_ids
from lossmask.remembered import folder, recall
from lossmask.sampling import is_sampled
from lossmask.tokenizing import TextTokenizer
from tests import corpus, small_tokenizers
from tests.both_ways import ready, shown
from tests.scenarios import assistant, user

FEW = 24  # probes, in most tests: the added tokens, and a text of each kind


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(
        fast_backend, "probe_texts", lambda tokenizer: islice(probe_texts(tokenizer), FEW)
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


class Native:
    """Stands in for ``fastokens.Tokenizer``: the tokenizer itself, but for some texts.

    Args:
        tokenizer: Gives the ids.
        differs: For which texts other ids come out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        differs: Callable[[str], bool] = lambda text: False,
    ) -> None:
        self.tokenizer = tokenizer
        self.differs = differs
        self.asked: list[str] = []

    def from_json_str(self, source: str) -> Native:
        assert source == self.tokenizer.backend_tokenizer.to_str()
        return self

    def no_truncation(self) -> None:
        pass

    def no_padding(self) -> None:
        pass

    def encode_batch_flat(self, texts: list[str], special: bool) -> tuple[Any, Any]:
        assert not special
        self.asked += texts
        each = [
            np.append(ids, np.int32(7)) if self.differs(text) else ids
            for text, ids in zip(texts, reference_ids(self.tokenizer, texts), strict=True)
        ]
        flat = np.concatenate([np.zeros(0, np.int32), *each]).astype(np.uint32)
        bounds = np.cumsum([0, *map(len, each)]).astype(np.uint64)
        return flat.tobytes(), bounds.tobytes()


def use(native: Native, monkeypatch: pytest.MonkeyPatch) -> Native:
    monkeypatch.setattr(fast_backend, "_fastokens", lambda: native)
    return native


def looked_at(texts: Iterator[str]) -> Iterator[str]:
    """Yield the texts that are encoded by both."""
    return (text for text in texts if is_sampled(text, fast_backend._ONE_IN))


LOOKED_AT = next(looked_at(f"text {number}" for number in range(100_000)))
NOT_LOOKED_AT = "text that nobody looks at"


def test_one_that_gives_the_same_ids_is_used(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = use(Native(tokenizer), monkeypatch)
    text_tokenizer = TextTokenizer(tokenizer)
    assert text_tokenizer.why_not_fast == "nothing has asked for it"
    text_tokenizer.use_fast_backend()
    assert text_tokenizer.why_not_fast == ""
    assert native.asked == list(probe_texts(tokenizer))[:FEW]
    native.asked.clear()
    ids, bounds = text_tokenizer.encode_flat(["Hello there", "", LOOKED_AT])
    assert native.asked == ["Hello there", "", LOOKED_AT]
    expected = reference_ids(tokenizer, ["Hello there", "", LOOKED_AT])
    assert ids.tolist() == np.concatenate(expected).tolist()
    assert bounds.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert (str(ids.dtype), str(bounds.dtype)) == ("int32", "int64")


def test_one_that_differs_on_a_probe_is_refused_with_the_reason(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Native(tokenizer, lambda text: text.startswith("I'm you're")), monkeypatch)
    why_not = fast_backend.fast_backend(tokenizer)
    assert isinstance(why_not, str)
    assert why_not.startswith("fastokens gives other ids than the tokenizer, from token ")
    assert why_not.endswith(
        "in a text that begins with \"I'm you're WE'LL they'd it's o'clock ''q\"; it is not used "
        "for this tokenizer"
    )
    text_tokenizer = TextTokenizer(tokenizer)
    text_tokenizer.use_fast_backend()
    assert text_tokenizer.why_not_fast == why_not
    assert text_tokenizer.backend_error is None  # it has encoded nothing
    assert (
        text_tokenizer.encode_flat(["a"])[0].tolist() == reference_ids(tokenizer, ["a"])[0].tolist()
    )


@pytest.mark.parametrize("differs", [True, False])
def test_what_was_found_out_is_remembered(
    tokenizer: PreTrainedTokenizerBase, differs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = use(Native(tokenizer, lambda text: differs), monkeypatch)
    first = fast_backend.fast_backend(tokenizer)
    [path] = folder("backends").iterdir()
    fact = recall("backends", path.stem)
    assert fact == {"why_not": first if differs else ""}
    native.asked.clear()
    second = fast_backend.fast_backend(tokenizer)
    assert second == first if differs else isinstance(second, FastBackend)
    assert native.asked == []


def test_another_tokenizer_is_found_out_anew(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Native(tokenizer), monkeypatch)
    assert isinstance(fast_backend.fast_backend(tokenizer), FastBackend)
    other = small_tokenizers.byte_level("h i")
    native = use(Native(other), monkeypatch)
    assert isinstance(fast_backend.fast_backend(other), FastBackend)
    assert native.asked
    assert len(list(folder("backends").iterdir())) == 2


def test_a_tokenizer_that_splits_special_tokens_is_another_one(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    splitting = AutoTokenizer.from_pretrained(DEMO_MODEL, split_special_tokens=True)
    assert splitting.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    use(Native(tokenizer), monkeypatch)
    assert isinstance(fast_backend.fast_backend(tokenizer), FastBackend)
    why_not = fast_backend.fast_backend(splitting)
    assert isinstance(why_not, str)
    assert "in a text that begins with '<|endoftext|>'" in why_not


def test_a_difference_during_a_run_ends_its_use(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = use(Native(tokenizer), monkeypatch)
    text_tokenizer = TextTokenizer(tokenizer)
    text_tokenizer.use_fast_backend()
    native.differs = lambda text: text in (LOOKED_AT, NOT_LOOKED_AT)
    [more], [own] = (
        [text_tokenizer.encode_flat([NOT_LOOKED_AT])[0].tolist()],
        [reference_ids(tokenizer, [NOT_LOOKED_AT])[0].tolist()],
    )
    assert more == [*own, 7]  # one in many is looked at
    assert text_tokenizer.backend_error is None
    expected = reference_ids(tokenizer, [LOOKED_AT, NOT_LOOKED_AT])
    ids, _ = text_tokenizer.encode_flat([LOOKED_AT, NOT_LOOKED_AT])
    assert ids.tolist() == np.concatenate(expected).tolist()
    error = text_tokenizer.backend_error
    assert isinstance(error, BackendDiffers)
    assert error.reason == "backend_differs"
    assert f"instead of [], in a text that begins with {LOOKED_AT!r}" in error.detail
    assert f"from token {len(expected[0])} on: [7]" in error.detail
    assert text_tokenizer.why_not_fast == error.detail
    native.asked.clear()
    assert text_tokenizer.encode_flat([NOT_LOOKED_AT])[0].tolist() == own
    assert native.asked == []
    assert fast_backend.fast_backend(tokenizer) == error.detail  # the next process knows


def test_a_batch_that_a_wrong_backend_encoded_is_an_error(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = use(Native(tokenizer), monkeypatch)
    monkeypatch.setattr(fast_backend, "_ONE_IN", 1)  # every text is looked at
    encoder = ready(Encoder(tokenizer))
    rows = [{"messages": [user(f"q{number}"), assistant("a")]} for number in range(70)]
    expected = [shown(encoder.encode_row(row)) for row in rows]
    assert list(map(shown, encoder.encode_batch(rows))) == expected
    assert any("q69" in text for text in native.asked)
    native.differs = lambda text: "q5<" in text
    with pytest.raises(BackendDiffers, match="in a text that begins with '<"):
        encoder.encode_batch(rows)
    assert list(map(shown, map(encoder.encode_row, rows))) == expected
    again = Encoder(tokenizer)
    assert list(map(shown, ready(again).encode_batch(rows))) == expected
    slow = ready(Encoder(tokenizer, fast=False))
    native.asked.clear()
    assert list(map(shown, slow.encode_batch(rows))) == expected
    assert native.asked == []


def test_it_is_loaded_once_there_have_been_some_rows(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = use(Native(tokenizer), monkeypatch)
    encoder = ready(Encoder(tokenizer))
    row = {"messages": [user("q"), assistant("a")]}
    encoder.encode_batch([row] * 63)
    assert native.asked == []
    encoder.encode_batch([row])
    assert native.asked


def test_what_native_code_does_not_read_is_told(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreadable:
        def from_json_str(self, source: str) -> None:
            raise RuntimeError("no such model")

    monkeypatch.setattr(fast_backend, "_fastokens", Unreadable)
    why_not = fast_backend.fast_backend(tokenizer)
    assert why_not == "fastokens does not read this tokenizer: no such model"
    monkeypatch.setattr(fast_backend, "_fastokens", lambda: None)
    assert str(fast_backend.fast_backend(tokenizer)).startswith("fastokens is not installed (pip")


def test_probes_hold_every_added_token_and_kind_of_character(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    probes = list(probe_texts(tokenizer))
    together = "\x01".join(probes)
    for token in tokenizer.added_tokens_decoder.values():
        assert str(token) in probes
        assert f"{token}{token}" in together
    kinds = (0x20, 0x7F, 0xA0, 0x300, 0x660, 0x2028, 0x3042, 0x1F642, 0x10FFFD)
    assert all(chr(point) in together or point > 0x3100 for point in kinds)
    assert "" in probes
    assert all(text.encode() or text == "" for text in probes)
    assert sum(map(len, probes)) > 50_000


def test_half_a_character_is_refused_as_before(tokenizer: PreTrainedTokenizerBase) -> None:
    pytest.importorskip("fastokens")
    encoder = ready(Encoder(tokenizer))
    rows: Sequence[Any] = [{"messages": [user("a\ud800"), assistant("b")]}, {"text": "a\ud800b"}]
    before = [shown(encoder.encode_row(row)) for row in rows]
    encoder.encode_batch([{"messages": [user("q"), assistant("a")]}] * 64)
    assert encoder._setting.tokenizer.why_not_fast == ""  # type: ignore[attr-defined]
    assert [shown(encoder.encode_row(row)) for row in rows] == before
    assert [shown(outcome) for outcome in encoder.encode_batch(rows)] == before


def test_the_demo_tokenizer_is_read_and_proven(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastokens")
    monkeypatch.setattr(fast_backend, "probe_texts", probe_texts)
    backend = fast_backend.fast_backend(tokenizer)
    assert isinstance(backend, FastBackend)
    texts = ["Hello <|im_end|>\n\n", "", " é🙂 世界 123"]
    ids, bounds = backend.encode(texts)
    for number, expected in enumerate(reference_ids(tokenizer, texts)):
        assert ids[bounds[number] : bounds[number + 1]].tolist() == expected.tolist()


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", corpus.tokenizer_names())
def test_tokenizers_of_the_corpus_are_proven_or_there_is_a_reason(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastokens")
    monkeypatch.setattr(fast_backend, "probe_texts", probe_texts)
    tokenizer = corpus.tokenizer(name)
    found = fast_backend.fast_backend(tokenizer)
    if isinstance(found, str):
        assert len(found) > 20
        return
    rows = [row for data in corpus.dataset_names() for row in corpus.rows(data, limit=5)]
    texts = [
        message["content"]
        for row in rows
        for message in row["messages"]
        if isinstance(message.get("content"), str)
    ]
    texts = [text for text in texts if max(text, default="") < "\ud800"]
    ids, bounds = found.encode(texts)
    for number, expected in enumerate(reference_ids(tokenizer, texts)):
        assert ids[bounds[number] : bounds[number + 1]].tolist() == expected.tolist()
