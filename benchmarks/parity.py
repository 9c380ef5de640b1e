"""Hold every published chat template against inference and print the table.

    python benchmarks/parity.py                 # all templates, scenarios and edge cases
    python benchmarks/parity.py --templates 20  # every n-th template, for a quick look

Exit code 1 if any example is wrong or fewer than ``--at-least`` of the renderable cases are exact.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lossmask import Encoder
from tests import corpus
from tests.parity import Case, check
from tests.scenarios import SCENARIOS, Scenario


def cases_of(template: str) -> list[tuple[str, str, Case]]:
    """Check one template on every conversation; return (template, conversation, case) triples."""
    encoder = Encoder(
        corpus.tokenizer_for(template), chat_template=corpus.template_source(template)
    )
    edge = [
        Scenario("edge/" + row["id"], row["messages"], row.get("tools"))
        for row in corpus.rows("synthetic-edge-dev")
    ]
    return [
        (template, scenario.name, check(encoder, scenario.messages, scenario.tools))
        for scenario in [*SCENARIOS, *edge]
    ]


def run(names: list[str], workers: int) -> list[tuple[str, str, Case]]:
    """Check many templates, in processes."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.imap(cases_of, names, chunksize=4)
        return [
            case
            for cases in track(results, "parity", total=len(names), console=Console(stderr=True))
            for case in cases
        ]


def report(cases: list[tuple[str, str, Case]], console: Console) -> tuple[int, float]:
    """Print what was found; return the number of wrong cases and the exact share."""
    status = Counter(case.status for _, _, case in cases)
    renderable = sum(status.values()) - status["raises"]
    share = status["exact"] / max(renderable, 1)
    table = Table("cases", "count", "share of renderable", title="Parity with inference")
    for name in ("exact", "refused", "wrong"):
        table.add_row(name, f"{status[name]:,}", f"{status[name] / max(renderable, 1):.2%}")
    table.add_row("renderable", f"{renderable:,}", "")
    table.add_row("transformers raises", f"{status['raises']:,}", "")
    console.print(table)
    reasons = Table("why refused", "cases", "templates", "for example")
    for reason, count in _reasons(cases).most_common():
        hits = [(t, s) for t, s, c in cases if c.status == "refused" and _reason(c) == reason]
        reasons.add_row(reason, str(count), str(len({t for t, _ in hits})), "\n".join(hits[0]))
    console.print(reasons)
    findings = Table("finding on exact cases", "cases")
    for kind, count in Counter(k for _, _, c in cases for k in c.findings).most_common():
        findings.add_row(kind, f"{count:,}")
    console.print(findings)
    for template, scenario, case in cases:
        if case.status == "wrong":
            console.print(f"[red]WRONG[/] {template} {scenario}: {case.detail}", markup=True)
    return status["wrong"], share


def _reason(case: Case) -> str:
    return case.detail.partition(":")[0]


def _reasons(cases: list[tuple[str, str, Case]]) -> Counter[str]:
    return Counter(_reason(case) for _, _, case in cases if case.status == "refused")


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", type=int, default=0, help="check about this many only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.90, help="exact share to pass")
    arguments = parser.parse_args()
    names = corpus.template_names()
    if not names:
        print(f"no corpus at {corpus.ROOT}", file=sys.stderr)
        return 2
    if arguments.templates:
        names = names[:: max(1, len(names) // arguments.templates)]
    begun = time.perf_counter()
    cases = run(names, arguments.workers)
    wrong, share = report(cases, Console(width=110))
    print(
        f"{len(names)} templates, {len(cases):,} cases, {time.perf_counter() - begun:.0f} s: "
        f"{share:.2%} exact, {wrong} wrong"
    )
    return 0 if not wrong and share >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
