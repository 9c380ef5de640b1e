"""Text made from values equals that of the untraced function; origins point into the values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import markupsafe
import pytest

from lossmask.traced_formatting import (
    SafeText,
    dumps,
    escaped,
    has_traced,
    percent_format,
    safe,
    text_of,
)
from lossmask.traced_text import (
    COARSE,
    LITERAL,
    MIXED,
    Mark,
    TracedText,
    concat,
    leaf_text,
    marks_of,
    origins_of,
)


def origin_string(text: str) -> str:
    """Draw origins: ``.`` literal, ``?`` mixed, ``A`` leaf 0, ``B`` leaf 1, coarse ``a``, ``b``."""

    def letter(origin: int) -> str:
        if origin < 0:
            return "." if origin == LITERAL else "?"
        name = chr(ord("A") + (origin >> 32))
        return name.lower() if origin & COARSE == COARSE else name

    return "".join(letter(origin) for origin in origins_of(text).tolist())


def offsets_of_leaf(text: str, leaf: int) -> list[int]:
    return [o & COARSE for o in origins_of(text).tolist() if o >= 0 and o >> 32 == leaf]


def a(text: str) -> TracedText:
    return leaf_text(text, 0)


def b(text: str) -> TracedText:
    return leaf_text(text, 1)


NASTY = 'q"\\/\n\x00é\u2028😀</script>\x7f'


def value() -> dict[str, Any]:
    return {
        "text": a(NASTY),
        "list": [b("x"), 1, 2.5, -0.0, True, None, [], {}, ()],
        a("key"): {"z": a(""), "a": [[b("deep")]]},
    }


@pytest.mark.parametrize("ensure_ascii", [False, True])
@pytest.mark.parametrize("indent", [None, 0, 2, "\t", ""])
@pytest.mark.parametrize("separators", [None, (",", ":"), (" , ", " = ")])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_json_equals_that_of_the_standard_library(
    ensure_ascii: bool, indent: Any, separators: Any, sort_keys: bool
) -> None:
    options: dict[str, Any] = {
        "ensure_ascii": ensure_ascii,
        "indent": indent,
        "separators": separators,
        "sort_keys": sort_keys,
    }
    written = dumps(value(), **options)
    assert written == json.dumps(value(), **options)
    assert not set(origin_string(written)) & set("?ab")  # nothing was given up
    assert offsets_of_leaf(written, 1) == ([0, 0, 1, 2, 3] if not sort_keys else [0, 1, 2, 3, 0])


def test_json_gives_an_escape_the_origin_of_its_character() -> None:
    written = dumps({"k": a('x"\né')}, ensure_ascii=True)
    assert written == '{"k": "x\\"\\n\\u00e9"}'
    assert origin_string(written) == "......." + "A" * 11 + ".."
    assert offsets_of_leaf(written, 0) == [0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_json_gives_both_surrogates_of_an_emoji_its_origin() -> None:
    written = dumps(a("😀!"), ensure_ascii=True)
    assert written == '"\\ud83d\\ude00!"'
    assert offsets_of_leaf(written, 0) == [0] * 12 + [1]


def test_json_keys_have_origins_and_numbers_have_none() -> None:
    assert origin_string(dumps({a("ab"): 12})) == "..AA......"


def test_json_of_other_key_types_equals_that_of_the_standard_library() -> None:
    keys = {7: a("x"), None: 2, False: 3, 2.5: 4}
    written = dumps(keys)
    assert written == json.dumps(keys)
    assert origin_string(written) == "......." + "A" + "." * (len(written) - 8)


def test_json_without_traced_strings_is_a_plain_string() -> None:
    assert type(dumps({"a": ["b"]}, indent=2)) is str


def test_json_of_what_is_no_json_raises_as_the_standard_library_does() -> None:
    with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
        dumps({"a": {1}})


@pytest.mark.parametrize("item", [float("nan"), float("inf"), 10**30, 1e-7])
def test_json_numbers_are_those_of_the_standard_library(item: float) -> None:
    assert dumps([item, a("x")]) == json.dumps([item, "x"])


def test_traced_strings_are_found_anywhere_inside() -> None:
    assert has_traced({"a": [1, (a("x"),)]})
    assert has_traced({a("x"): 1})
    assert not has_traced({"a": ["b", ("c", 1), None]})


@pytest.mark.parametrize(
    "plain",
    [
        "text",
        "",
        0,
        True,
        None,
        1.5,
        [],
        (),
        {},
        ["it's"],
        ['say "hi"'],
        ['it\'s "both"'],
        ["tab\t nl\n bs\\ bell\x07 nbsp\u00a0 é 😀 \u202e"],
        ("one",),
        ("one", "two"),
        {"a": ["b", {"c": ("d",)}], 1: None},
        [["nested", []], {}],
    ],
)
def test_text_of_a_value_equals_str(plain: Any) -> None:
    def trace(item: Any) -> Any:
        if isinstance(item, str):
            return a(item)
        if isinstance(item, dict):
            return {trace(key): trace(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(trace(inner) for inner in item)
        return item

    shown = text_of(trace(plain))
    assert shown == str(plain)
    assert not set(origin_string(shown)) & set("?ab")


def test_text_of_a_value_locates_its_strings() -> None:
    shown = text_of([a("it's\n"), {"k": b("x")}])
    assert shown == "[\"it's\\n\", {'k': 'x'}]"
    assert origin_string(shown) == "..AAAAAA..........B..."
    assert offsets_of_leaf(shown, 0) == [0, 1, 2, 3, 4, 4]


def test_text_of_a_string_is_the_string_itself() -> None:
    word = a("x")
    assert text_of(word) is word
    assert type(text_of([1, "x"])) is str


class Unlike(list[Any]):
    """A list that does not show itself as one."""

    def __repr__(self) -> str:
        return "<unlike>"


def test_text_that_cannot_be_followed_takes_the_coarse_origin() -> None:
    shown = text_of(Unlike([a("x")]))
    assert shown == "<unlike>"
    assert origin_string(shown) == "a" * 8
    assert origin_string(text_of(Unlike([a("x"), b("y")]))) == "?" * 8


@pytest.mark.parametrize(
    ("template", "values", "origins"),
    [
        ("<%s>", (a("ab"),), ".AA."),
        ("%s%%%s", (a("x"), b("yz")), "A.BB"),
        ("%(k)s-%(n)d", {"k": a("xy"), "n": 3}, "AA.."),
        ("%d %s", (5, a("x")), "..A"),
        ("%4s|%s", (a("x"), b("y")), "aaaa.B"),
        ("%.1s%r", (a("xy"), b("z")), "abbb"),
        ("%s", ([a("x")],), "..A.."),
        ("%5.2f%s", (1.5, a("x")), ".....A"),
        ("no fields", (), "........."),
        ("%(a(b))s!", {"a(b)": a("x")}, "aa"),
    ],
)
def test_percent_formatting_locates_plain_fields(template: str, values: Any, origins: str) -> None:
    written = percent_format(template, values)
    assert written == str.__mod__(template, values)
    assert origin_string(written) == origins


def test_percent_formatting_takes_a_single_value_without_a_tuple() -> None:
    written = percent_format("<%s>", a("ab"))
    assert written == "<ab>"
    assert origin_string(written) == ".AA."


def test_percent_formatting_keeps_the_origins_of_its_template() -> None:
    written = percent_format(a("x%sy"), (b("!"),))
    assert written == "x!y"
    assert origin_string(written) == "ABA"
    assert offsets_of_leaf(written, 0) == [0, 3]


def test_percent_formatting_of_plain_strings_is_a_plain_string() -> None:
    assert type(percent_format("%s", ("x",))) is str


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("%s %s", (a("x"),), "not enough arguments"),
        ("%s", (a("x"), a("y")), "not all arguments converted"),
        ("%d", (a("x"),), "a real number is required"),
    ],
)
def test_percent_formatting_raises_as_str_does(template: str, values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        percent_format(template, values)


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("%*s", (5, a("x"))),
        ("%s %ld", (a("x"), 3)),
    ],
)
def test_rare_percent_formats_fall_back_to_the_coarse_origin(template: str, values: Any) -> None:
    written = percent_format(template, values)
    assert written == str.__mod__(template, values)
    assert set(origin_string(written)) <= set("aA.")


SAFE_OPERATIONS: dict[str, tuple[Callable[[str], str], str]] = {
    "add": (lambda s: s + "<i>", "<b>x</b>&lt;i&gt;"),
    "radd": (lambda s: "<i>" + s, "&lt;i&gt;<b>x</b>"),
    "join": (lambda s: s.join(["<", ">"]), "&lt;<b>x</b>&gt;"),
    "replace": (lambda s: s.replace("x", "<"), "<b>&lt;</b>"),
    "add safe": (lambda s: s + s, "<b>x</b><b>x</b>"),
}


@pytest.mark.parametrize("name", SAFE_OPERATIONS)
def test_safe_text_escapes_what_markup_escapes(name: str) -> None:
    operation, expected = SAFE_OPERATIONS[name]
    result = operation(safe(a("<b>x</b>")))
    assert result == expected == str(operation(markupsafe.Markup("<b>x</b>")))
    assert isinstance(result, SafeText)


def test_safe_text_keeps_origins_and_marks() -> None:
    start = Mark("start", 0)
    marked = TracedText("<b>", origins_of(a("<b>")), ((1, start),))
    sum_ = b("<") + safe(marked)
    assert sum_ == "&lt;<b>"
    assert origin_string(sum_) == "BBBBAAA"
    assert marks_of(sum_) == ((5, start),)


def test_str_of_safe_text_is_no_longer_safe() -> None:
    plain = str(safe(a("<")))
    assert not isinstance(plain, SafeText)
    assert plain + "<" == "<<"
    assert origin_string(plain) == "A"


def test_safe_text_of_a_value_is_its_text() -> None:
    assert safe([1, a("x")]) == str(markupsafe.Markup([1, "x"]))
    assert safe(5) == "5"


@pytest.mark.parametrize("cut", [slice(0, 2), slice(None, None, -1)])
def test_a_slice_of_safe_text_is_safe_as_with_markup(cut: slice) -> None:
    part = safe(a("<b>"))[cut]
    assert isinstance(part, SafeText)
    assert part == str(markupsafe.Markup("<b>")[cut])


@pytest.mark.parametrize("method", ["upper", "lower", "strip", "title"])
def test_methods_of_safe_text_keep_it_safe_as_with_markup(method: str) -> None:
    result = getattr(safe(a(" <b>x ")), method)()
    assert isinstance(result, SafeText)
    assert result == getattr(markupsafe.Markup(" <b>x "), method)()


def test_escaping_gives_each_entity_the_origin_of_its_character() -> None:
    text = escaped(a("a<'"))
    assert text == str(markupsafe.escape("a<'"))
    assert offsets_of_leaf(text, 0) == [0] + [1] * 4 + [2] * 5
    assert escaped(safe("<")) == "<"


def test_adding_something_else_to_safe_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        safe("x") + 1  # type: ignore[operator]


def test_traced_values_in_sums_of_formats_stay_apart() -> None:
    line = concat((percent_format("%s: ", (a("k"),)), dumps(b("v"))))
    assert line == 'k: "v"'
    assert origin_string(line) == "A...B."


def test_mixed_text_is_only_what_has_two_sources() -> None:
    assert MIXED in origins_of(text_of(Unlike([a("x"), b("y")])))
    assert MIXED not in origins_of(text_of([a("x"), b("y")]))
