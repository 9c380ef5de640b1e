"""A diagnosis on one page of a terminal.

In: a diagnosis. Out: a rich renderable; nothing is printed here. What was rendered is shown with
its control characters made visible, so that no template can steer the terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lossmask.diagnosis import TOPICS, VERDICTS, Diagnosis, Evidence, Fact, Verdict
from lossmask.terminal import visible

_SIGNS: dict[Verdict, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "cyan"),
    "warning": ("▲", "yellow"),
    "error": ("✗", "bold red"),
}
_CONTEXT = 24  # characters of a rendering before what matters
_EXCERPT = 110
_SHOWN_BY_HALVES = ("shown", "dropped", "refused")
_WITHOUT = frozenset({"parity", "tokens", "contents"})  # what these are about is seen elsewhere
_OF_CALLS = frozenset({"call_is_json", "arguments_are_json", "call_is_no_json"})


def show_diagnosis(found: Diagnosis, *, name: str, evidence: bool = False) -> RenderableType:
    """Draw a diagnosis.

    Args:
        found: The diagnosis.
        name: Of what was diagnosed.
        evidence: Show the renderings behind every fact, not only those that tell by themselves.
    """
    parts: list[RenderableType] = [_head(found, name)]
    for topic, heading in TOPICS.items():
        facts = found.of(topic)
        if facts:
            parts += [Text(f"\n{heading}", "bold"), _topic(topic, facts, evidence)]
    return Group(*parts)


def _head(found: Diagnosis, name: str) -> RenderableType:
    counts = Counter(fact.verdict for fact in found.facts)
    line = Text()
    for verdict in reversed(VERDICTS):
        sign, style = _SIGNS[verdict]
        count = counts[verdict]
        plural = "s" if count != 1 and verdict != "ok" else ""
        line.append(f"{sign} {count} {verdict}{plural}   ", style if count else "dim")
    tried = Text(
        f"{found.renderings} renderings tried, by transformers' own apply_chat_template", "dim"
    )
    if found.is_stand_in:
        tokenizer = Text(
            "No tokenizer was given: one that comes with lossmask stands in for it, so nothing is "
            "said of tokens. Name the model's with --tokenizer.",
            "yellow",
        )
    else:
        tokenizer = Text(f"tokenizer {visible(found.tokenizer)}", "dim")
    return Panel(
        Group(line, tokenizer, tried),
        title=Text(f"doctor: {visible(name)}"),
        title_align="left",
        border_style=_SIGNS[found.worst][1].removeprefix("bold "),
    )


def _topic(topic: str, facts: Sequence[Fact], evidence: bool) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    folded: list[Fact] = []
    for fact in facts:
        if topic == "contents" and not evidence and _half(fact) is not None:
            folded.append(fact)
            continue
        _add(table, fact, evidence)
    for verdict, half in sorted({(fact.verdict, _half(fact) or "") for fact in folded}, key=_order):
        names = [_what(f) for f in folded if f.verdict == verdict and _half(f) == half]
        said = {"shown": "shown: ", "dropped": "left out: ", "refused": "the template raises at: "}
        sign, style = _SIGNS[verdict]
        table.add_row(Text(sign, style), Text(said[half] + ", ".join(names)))
    return table


def _order(case: tuple[Verdict, str]) -> tuple[int, int]:
    return _SHOWN_BY_HALVES.index(case[1]), -VERDICTS.index(case[0])


def _half(fact: Fact) -> str | None:
    ending = fact.kind.rpartition("_")[2]
    return ending if ending in _SHOWN_BY_HALVES else None


def _what(fact: Fact) -> str:
    return fact.kind.rpartition("_")[0].replace("_", " ")


def _add(table: Table, fact: Fact, evidence: bool) -> None:
    sign, style = _SIGNS[fact.verdict]
    sentence = Text(visible(fact.sentence))
    if fact.verdict in ("warning", "error"):
        sentence.stylize("bold" if fact.verdict == "warning" else "bold red")
    table.add_row(Text(sign, style), sentence)
    if evidence or _tells(fact):
        for each in fact.evidence[: None if evidence else 2]:
            drawn = Text.assemble(*_drawn(each, style.removeprefix("bold ")), overflow="fold")
            table.add_row("", Padding(drawn, (0, 0, 0, 2)))


def _tells(fact: Fact) -> bool:
    """Return whether the renderings behind a fact are worth their place on the page."""
    if fact.kind in _OF_CALLS:
        return True
    points = any(each.start or each.end is not None for each in fact.evidence)
    return fact.verdict != "ok" and points and fact.topic not in _WITHOUT


def _drawn(evidence: Evidence, style: str) -> Iterator[tuple[str, str]]:
    rendered = evidence.rendered
    yield f"{visible(rendered.label)}: ", "dim italic"
    if rendered.text is None:
        yield _cut(visible(rendered.error or "")), "red"
        return
    before = rendered.text[: evidence.start]
    if before:
        yield ("…" if len(before) > _CONTEXT else "") + visible(before[-_CONTEXT:]), "dim"
        yield "┃", "dim"
    yield _cut(visible(evidence.excerpt)) or "(nothing)", style
    if evidence.end is not None and rendered.text[evidence.end :]:
        yield "…", "dim"


def _cut(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
