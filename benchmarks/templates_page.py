"""The parity matrix as a page: totals, refusals with their meaning, one line per template."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from template_facts import COLUMNS, LEGEND

from lossmask.explanations import FINDINGS, REASONS
from tests.parity import Case

Result = tuple[str, str, Case]
"""Template or tokenizer, conversation, what came of it."""

_HEAD = """# Published templates and tokenizers

Written by `python benchmarks/parity.py --write docs/templates.md`; CI holds it against a new run.
Every template meets every conversation of `tests/scenarios.py`, messages that hold the template's
own literals included, and the corpus' hand-written traps, under `Policy(control_tokens="escape")`.
It is held against inference by `tests/parity.py`, which asks transformers and the tokenizer alone.
Every rendering is derived twice, by tracing and by perturbation, and the two agree.

* **exact**: text, ids before each supervised run, and supervised text are inference's.
* **refused**: rejected with a reason, though a completion exists.
* **no completion**: rejected with a reason, and the oracle finds, too, that no answer could be
  asked of a model: the template leaves it out, or opens a think block that it never closes.
* **incomparable**: a conversation with control tokens typed into it is judged by a twin with
  letters in their place; here the template or the tokenizer treats the twin differently, so the
  oracle cannot tell.
* **raises**: transformers itself cannot render the conversation.
"""


def page(
    templates: Sequence[Result],
    tokenizers: Sequence[Result],
    facts: Mapping[str, tuple[str, ...]],
) -> str:
    """Write the page.

    Args:
        templates: Results of the templates.
        tokenizers: Results of the tokenizers, each with the templates that fit it.
        facts: What the doctor says of each template, as ``template_facts`` puts it.
    """
    everything = [*templates, *tokenizers]
    return "\n".join(
        [
            _HEAD,
            *_totals({"templates": templates, "tokenizers": tokenizers}),
            "",
            "## Refusals\n",
            *_reasons(everything, "refused"),
            "",
            "## No completion\n",
            *_reasons(everything, "no completion"),
            "",
            "## Findings on exact cases\n",
            *_findings(everything),
            "",
            "## Tokenizers\n",
            *_lines(tokenizers, {}),
            "",
            "## Templates\n",
            LEGEND,
            *_lines(templates, facts),
            "",
        ]
    )


def exact_share(status: Mapping[str, int]) -> float:
    """Return exact cases over those in which some completion exists."""
    existing = status["exact"] + status["refused"] + status["wrong"]
    return status["exact"] / max(existing, 1)


def _totals(groups: Mapping[str, Sequence[Result]]) -> Iterable[str]:
    columns = "exact | refused | wrong | no completion | incomparable | raises"
    yield f"| | cases with a completion | {columns} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, results in groups.items():
        status = Counter(case.status for *_, case in results)
        existing = status["exact"] + status["refused"] + status["wrong"]
        yield (
            f"| {len({result[0] for result in results})} {name} | {existing:,} | "
            f"{status['exact']:,} ({exact_share(status):.2%}) | {status['refused']:,} | "
            f"{status['wrong']:,} | {status['no completion']:,} | "
            f"{status['incomparable']:,} | {status['raises']:,} |"
        )


def _reasons(results: Sequence[Result], status: str) -> Iterable[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, _, case in results:
        if case.status == status:
            found[reason_of(case)].append(name)
    yield "| reason | what it means | cases | in |"
    yield "| --- | --- | --- | --- |"
    for reason, names in sorted(found.items(), key=lambda item: -len(item[1])):
        where = sorted(set(names))
        listed = ", ".join(f"`{name}`" for name in where[:3])
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        yield f"| `{reason}` | {REASONS[reason]} | {len(names):,} | {listed}{more} |"


def _findings(results: Sequence[Result]) -> Iterable[str]:
    count = Counter(kind for *_, case in results for kind in case.findings)
    yield "| finding | what it means | cases |"
    yield "| --- | --- | --- |"
    for kind, number in count.most_common():
        yield f"| `{kind}` | {FINDINGS[kind]} | {number:,} |"


def _lines(results: Sequence[Result], facts: Mapping[str, tuple[str, ...]]) -> Iterable[str]:
    names = ["name", "exact", "refused", "no completion", "raises", *(COLUMNS if facts else ())]
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    by_name: dict[str, list[Case]] = defaultdict(list)
    for name, _, case in results:
        by_name[name].append(case)
    for name, cases in sorted(by_name.items()):
        status = Counter(case.status for case in cases)
        yield (
            f"| `{name}` | {status['exact']} | {_with_reasons(cases, 'refused')} | "
            f"{_with_reasons(cases, 'no completion')} | {status['raises'] or ''} |"
            + "".join(f" {column} |" for column in facts.get(name, ()))
        )


def _with_reasons(cases: Sequence[Case], status: str) -> str:
    count = Counter(reason_of(case) for case in cases if case.status == status)
    return ", ".join(f"{number} `{reason}`" for reason, number in sorted(count.items()))


def reason_of(case: Case) -> str:
    """Return the slug that the detail of a refused case begins with."""
    return case.detail.partition(":")[0]
