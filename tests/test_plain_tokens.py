r"""Laid-out conversations become the tokens that the whole way makes of them, or are left to it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.fit import Fit
from lossmask.parts import might_think, might_think_anywhere
from lossmask.plain_conversations import PlainConversations
from lossmask.plain_tokens import FlatTokens, PlainTokens, cuts_at_added_tokens
from lossmask.skeletons import PlainLayout
from lossmask.vocabulary_bytes import VocabularyBytes
from tests import corpus, small_tokenizers
from tests.both_ways import check_both_ways, ready
from tests.scenarios import Message, assistant, system, user

HEADERS = ("<|u|>", "<|a|>", "<|s|>")
SOURCE = (
    "{% for m in messages %}<|{{ m.role[0] }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)


def special(text: str, **options: Any) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, **options)


def byte_level(*merges: str, **options: Any) -> PreTrainedTokenizerBase:
    tokenizer = small_tokenizers.byte_level(*merges, **options)
    tokenizer.add_tokens([special(text) for text in HEADERS], special_tokens=True)
    return tokenizer


def made(
    tokenizer: PreTrainedTokenizerBase, source: str = SOURCE, **options: Any
) -> tuple[Encoder, PlainConversations, PlainTokens]:
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False, **options))
    plain = PlainConversations(encoder._setting, encoder.layout)
    vocabulary = VocabularyBytes.of(tokenizer)
    assert vocabulary is not None
    prompt_end = plain.prompt_end()
    assert prompt_end is not None
    return encoder, plain, PlainTokens(encoder._setting, vocabulary, prompt_end)


def encoded(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[Message]],
    source: str = SOURCE,
    **options: Any,
) -> FlatTokens:
    """Encode conversations together and require that the whole way does the same."""
    encoder, plain, tokens = made(tokenizer, source, **options)
    rows = [{"messages": messages} for messages in conversations]
    flat = tokens.encode([layout for row in rows for layout in plain.lay_out(row) or []])
    assert len(flat.in_loss) == len(rows)
    assert check_both_ways(encoder, rows) == int(flat.is_exact.sum())
    return flat


def test_conversations_lie_end_to_end() -> None:
    tokenizer = byte_level("h i")
    flat = encoded(
        tokenizer, [[user("a"), assistant("hi")], [system(""), user("hi!"), assistant("b")]]
    )
    number = tokenizer.convert_tokens_to_ids
    first = [number(t) for t in ("<|u|>", "a", "<|end|>", "<|a|>", "hi", "<|end|>")]
    second = [
        number(t)
        for t in ("<|s|>", "<|end|>", "<|u|>", "hi", "!", "<|end|>", "<|a|>", "b", "<|end|>")
    ]
    assert flat.is_exact.tolist() == [True, True]
    assert flat.starts.tolist() == [0, 6, 15]
    assert flat.input_ids.tolist() == first + second
    loss = [0, 0, 0, 0, 1, 1] + [0] * 7 + [1, 1]
    assert flat.loss_weights.tolist() == loss
    assert flat.labels.tolist() == [
        own if one else -100 for own, one in zip(first + second, loss, strict=True)
    ]
    messages = [-1, 0, -1, -1, 1, -1, -1, -1, -1, 1, 1, -1, -1, 2, -1]
    assert flat.message_index.tolist() == messages
    assert flat.bounds[: 6 + 1].tolist() == [0, 5, 6, 13, 18, 20, 27]
    assert {str(array.dtype) for array in (flat.input_ids, flat.labels, flat.message_index)} == {
        "int32"
    }
    assert (str(flat.loss_weights.dtype), str(flat.starts.dtype)) == ("float32", "int64")


def test_a_token_of_content_and_scaffold_is_the_messages() -> None:
    source = SOURCE.replace("{{ m.content }}", "x{{ m.content }}y")
    source = source.replace("<|a|>{% endif", "<|a|>x{% endif")
    tokenizer = byte_level("x h", "i y", "xh iy")
    flat = encoded(
        tokenizer, [[user("hi"), assistant("b")], [user("hi?"), assistant("bi")]], source
    )
    number = tokenizer.convert_tokens_to_ids
    assert number("xhiy") == flat.input_ids[1]
    assert flat.message_index.tolist() == [
        *(-1, 0, -1, -1, -1, 1, -1, -1),
        *(-1, 0, 0, 0, -1, -1, -1, -1, 1, 1, -1),
    ]
    assert flat.is_exact.tolist() == [True, True]
    assert flat.loss_weights[:8].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_a_token_of_two_contents_is_the_first_ones() -> None:
    source = SOURCE.replace(
        "<|end|>{% endfor %}", "{{ '<|end|>' if m.role[0] == 'a' }}{% endfor %}"
    )
    source = source.replace("<|{{ m.role[0] }}|>", "{{ '<|a|>' if m.role[0] == 'a' }}")
    tokenizer = byte_level("h i", "hi j")
    flat = encoded(
        tokenizer,
        [
            [user("h"), user("i"), user("jk"), assistant("b")],
            [user("x"), user("hi"), user(""), user("j"), assistant("b")],
        ],
        source,
    )
    assert flat.message_index.tolist() == [0, 2, -1, 3, -1, 0, 1, -1, 4, -1]
    assert flat.is_exact.all()


@pytest.mark.parametrize("answer", ["hi", " hi", "\nhi", "\n\n", "é", "\u0301", "🙂", "ih"])
def test_a_border_inside_a_token_takes_the_whole_way(answer: str) -> None:
    source = SOURCE.replace("<|{{ m.role[0] }}|>", "<|{{ m.role[0] }}|>{{ '\\n' }}")
    source = source.replace("<|a|>{% endif", "<|a|>{{ '\\n' }}{% endif")
    tokenizer = byte_level("Ċ h", "Ċ Ċ", "Ċ Ġ", "Ċ Ã")
    flat = encoded(tokenizer, [[user("a"), assistant(answer)], [user("a"), assistant("i")]], source)
    crosses = answer in ("hi", " hi", "\n\n", "é")
    assert flat.is_exact.tolist() == [not crosses, True]


def test_a_prompt_whose_end_is_another_token_alone_takes_the_whole_way() -> None:
    tokenizer = _gpt2_like("Ċ Ċ")
    source = SOURCE.replace("<|{{ m.role[0] }}|>", "<|{{ m.role[0] }}|>{{ '\\n\\n' }}")
    source = source.replace("<|a|>{% endif", "<|a|>{{ '\\n\\n' }}{% endif")
    flat = encoded(tokenizer, [[user("a"), assistant("b")]], source)
    assert flat.is_exact.tolist() == [False]  # two newlines before a word are two tokens


def _gpt2_like(*merges: str) -> PreTrainedTokenizerBase:
    return byte_level(*merges, use_regex=True)


def looking_ahead() -> PreTrainedTokenizerBase:
    """Return a tokenizer that cuts ``abc`` as ``ab c`` before an ``x``, else as ``a bc``."""
    tokenizer = byte_level("a b", "b c")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Split(Regex("ab(?=cx)|bc"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_alone])
    return tokenizer


ABC = SOURCE.replace("|>{{ m", "|>abc{{ m").replace("<|a|>{% endif", "<|a|>abc{% endif")


def test_a_prompt_that_ends_in_other_ids_alone_takes_the_whole_way() -> None:
    conversations = [[user("a"), assistant("x")], [user("x"), assistant("y")]]
    flat = encoded(looking_ahead(), conversations, ABC)
    assert flat.is_exact.tolist() == [False, True]


def test_control_tokens_between_content_and_scaffold_are_seen() -> None:
    source = SOURCE.replace("{{ m.content }}", "{{ m.content }}!>")
    tokenizer = byte_level(added=[special("<!>"), special("a!")])
    encoder, plain, tokens = made(tokenizer, source)
    odd = PlainLayout.of("<|u|>x<!><|end|><|a|>y!><|end|>", [(0, 5, 7), (1, 21, 22)], [(1, 21, 31)])
    others = plain.lay_out({"messages": [user("b"), assistant("b")]})
    assert others is not None
    flat = tokens.encode([odd, *others])
    assert flat.is_exact.tolist() == [False, True]
    rows = [{"messages": [user("x<"), assistant("y")]}, {"messages": [user("b"), assistant("a")]}]
    assert check_both_ways(encoder, rows) == 0


def test_stop_tokens_of_the_vocabulary_are_seen_in_contents() -> None:
    tokenizer = byte_level()
    conversations = [
        [user("a"), assistant("b.")],
        [user("a."), assistant("b")],
        [user("a"), assistant("b")],
    ]
    flat = encoded(tokenizer, conversations, stop_tokens=["."])
    assert flat.is_exact.tolist() == [False, False, True]


def test_a_stop_that_is_no_added_token_takes_the_whole_way() -> None:
    source = SOURCE.replace("<|end|>", ".")
    flat = encoded(byte_level(), [[user("a"), assistant("b")]], source, stop_tokens=["."])
    assert flat.is_exact.tolist() == [False]


def test_half_a_character_takes_the_whole_way() -> None:
    tokenizer = byte_level()
    conversations = [
        [user("a\ud800"), assistant("b")],
        [user("a"), assistant("b")],
        [user("é"), assistant("\udfff")],
    ]
    assert encoded(tokenizer, conversations).is_exact.tolist() == [False, True, False]
    assert encoded(tokenizer, conversations[:1]).is_exact.tolist() == [False]


def test_text_that_is_normalised_takes_the_whole_way() -> None:
    tokenizer = byte_level(normalizer=normalizers.NFC())
    flat = encoded(tokenizer, [[user("e\u0301"), assistant("b")], [user("é"), assistant("é")]])
    assert flat.is_exact.tolist() == [False, True]


def test_unknown_tokens_take_the_whole_way() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"unk_token": "?"})
    source = SOURCE.replace("|>{{ m", "|>{{ '?' if m.content[0] == 'q' }}{{ m", 1)
    flat = encoded(tokenizer, [[user("q"), assistant("b")], [user("a"), assistant("b")]], source)
    assert flat.is_exact.tolist() == [False, True]


def test_what_is_too_long_takes_the_whole_way() -> None:
    flat = encoded(
        byte_level(),
        [[user("a"), assistant("b")], [user("a"), assistant("bc")]],
        fit=Fit(max_length=6),
    )
    assert flat.is_exact.tolist() == [True, False]


def test_characters_of_several_bytes_are_placed() -> None:
    tokenizer = byte_level("Ã ©")
    flat = encoded(
        tokenizer,
        [
            [user("é🙂"), assistant("世x"), user("ß"), assistant("\u2028")],
            [user("ascii"), assistant("only")],
            [user("x"), assistant("🙂")],
        ],
    )
    assert flat.is_exact.all()
    of_first = slice(0, int(flat.starts[1]))
    assert flat.message_index[of_first].tolist() == [
        *(-1, 0, 0, 0, 0, 0, -1, -1),  # é, four bytes
        *(1, 1, 1, 1, -1, -1, 2, 2, -1, -1, 3, 3, 3, -1),
    ]


def test_a_generation_prompt_needs_an_added_token() -> None:
    encoder, _, _ = made(byte_level())
    vocabulary = VocabularyBytes.of(encoder.tokenizer)
    assert vocabulary is not None
    for invitation, possible in (
        ("<|a|>", True),
        ("<|u|>\n<|a|> x\n", True),
        ("assistant:", False),
    ):
        assert PlainTokens(encoder._setting, vocabulary, invitation).is_possible is possible


def test_a_generation_prompt_whose_end_depends_on_what_precedes_it_is_none() -> None:
    tokenizer = byte_level()
    encoder, _, _ = made(tokenizer)
    vocabulary = VocabularyBytes.of(tokenizer)
    assert vocabulary is not None
    tokens = PlainTokens(encoder._setting, vocabulary, "<|a|>x")
    own = encoder._setting.tokenizer.encode_flat  # type: ignore[attr-defined]

    def other(texts: Sequence[str]) -> Any:
        return own([text.upper() if text == "x" else text for text in texts])

    tokens._encode = other
    assert tokens._end_of("<|a|>x", np.isin(np.arange(len(vocabulary.spelled)), [259])) is None


@pytest.mark.parametrize(
    ("pre_tokenizer", "cuts"),
    [
        (None, True),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), True),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), False),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Punctuation()]), True),
        (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a"), "isolated")]), True),
        (pre_tokenizers.Metaspace(), False),
        (pre_tokenizers.Sequence([pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])]), False),
        (pre_tokenizers.BertPreTokenizer(), False),
    ],
)
def test_pre_tokenizers_that_know_only_their_own_text(pre_tokenizer: Any, cuts: bool) -> None:
    backend = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    assert cuts_at_added_tokens(PreTrainedTokenizerFast(tokenizer_object=backend)) is cuts


@pytest.mark.parametrize(
    ("normalizer", "token", "cuts"),
    [
        (normalizers.NFC(), AddedToken("<a>", normalized=False), True),
        (normalizers.NFC(), AddedToken("<a>", normalized=True), False),
        (None, AddedToken("<a>", normalized=True), True),
        (normalizers.NFKC(), AddedToken("<a>", normalized=False), False),
        (normalizers.Sequence([normalizers.NFC()]), AddedToken("<a>", normalized=False), True),
        (normalizers.Prepend("x"), AddedToken("<a>", normalized=False), False),
        (None, AddedToken("<a>", lstrip=True, normalized=False), False),
        (None, AddedToken("<a>", rstrip=True, normalized=False), False),
        (None, AddedToken("<a>", single_word=True, normalized=False), False),
    ],
)
def test_added_tokens_that_cut_a_text(normalizer: Any, token: AddedToken, cuts: bool) -> None:
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens([token])
    assert cuts_at_added_tokens(tokenizer) is cuts


def test_an_added_token_across_the_border_takes_the_whole_way() -> None:
    source = SOURCE.replace("|>{{ m.content", "|>{{ '\\n' }}{{ m.content")
    source = source.replace("<|a|>{% endif", "<|a|>{{ '\\n' }}{% endif")
    tokenizer = byte_level(added=[AddedToken("\n  ", normalized=False)])
    flat = encoded(
        tokenizer, [[user("a"), assistant("  b")], [user("  a"), assistant(" b")]], source
    )
    assert flat.is_exact.tolist() == [False, True]


@corpus.needs_corpus
@pytest.mark.parametrize("name", ["qwen3", "llama3", "gpt2", "tiny-llama3-bpe", "starcoder2"])
def test_tokenizers_of_the_corpus(name: str) -> None:
    tokenizer, template = corpus.fitted(name, "chatml")
    source = corpus.template_source(template)
    conversations = [
        [user("Hello 123\n\n"), assistant(" é 世界\n"), user("\n"), assistant("🙂x ")],
        [user(""), assistant("\n\nb")],
        [user("a" * 50), assistant("<b> 'll")],
    ]
    rows = [{"messages": messages} for messages in conversations]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    check_both_ways(encoder, rows)


def test_the_demo_tokenizer_is_as_the_whole_way() -> None:
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    encoder = ready(Encoder(tokenizer, fast=False))
    rows = [{"messages": [user("Hello\n\n there"), assistant(" é 世界\n")]}] * 3
    assert check_both_ways(encoder, rows) == 3


@given(st.text("thinkTHINK<>[]/ é", max_size=40))
def test_a_batch_might_think_where_one_of_its_texts_might(text: str) -> None:
    if might_think(text):
        assert might_think_anywhere(f"a{text}é".encode())


@pytest.mark.parametrize(
    ("data", "is_possible"),
    [(b"", False), (b"a boon> NO", False), (b"</think>", True), (b"[/THINK]", True)],
)
def test_what_might_think(data: bytes, is_possible: bool) -> None:
    assert might_think_anywhere(data) is is_possible
