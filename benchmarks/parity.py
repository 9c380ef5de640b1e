"""Hold every published chat template and tokenizer against inference and print the table.

    python benchmarks/parity.py                            # everything (needs the corpus)
    python benchmarks/parity.py --every 20                 # every 20th template, for a quick look
    python benchmarks/parity.py --write docs/templates.md  # and write the page
    python benchmarks/parity.py --check docs/templates.md  # and require that the page is true

Exit code 1 if any example is wrong, the two derivations disagree anywhere, fewer than
``--at-least`` of the cases that have a completion are exact, or the page is not true.
"""

from __future__ import annotations

import argparse
import difflib
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template_facts import TemplateFacts, columns_of
from templates_page import Result, exact_share, page, reason_of

from lossmask import Encoder, Policy
from lossmask.diagnosis import TOPICS
from lossmask.doctor import diagnose
from tests import corpus
from tests.control_token_parity import Attack, Encoders, check_escaped, control_ids
from tests.parity import Case, check
from tests.scenarios import Scenario, scenarios_of

R = TypeVar("R")


def cases_of_template(name: str) -> list[Result]:
    """Check one template on every conversation."""
    return _cases(name, corpus.tokenizer_for(name), corpus.template_source(name))


def cases_of_tokenizer(name: str) -> list[Result]:
    """Check one tokenizer with a template of control tokens and with one of plain text."""
    results: list[Result] = []
    for style in ("native", "alpaca"):
        tokenizer, template = corpus.fitted(name, style)
        results += _cases(name, tokenizer, corpus.template_source(template))
    return results


def _cases(name: str, tokenizer: PreTrainedTokenizerBase, template: str) -> list[Result]:
    encoders = Encoders(
        *(
            Encoder(tokenizer, Policy(control_tokens=value), chat_template=template, proof="rows")
            for value in ("error", "escape", "allow")
        )
    )
    edge = [
        Scenario("edge/" + row["id"], row["messages"], row.get("tools"))
        for row in corpus.rows("synthetic-edge-dev")
    ]
    return [
        (name, scenario.name, _check(encoders, scenario))
        for scenario in [*scenarios_of(template), *edge]
    ]


def _check(encoders: Encoders, scenario: Scenario) -> Case:
    """Check a conversation, with its control tokens escaped if it holds any."""
    added = encoders.error.tokenizer.added_tokens_decoder
    texts = sorted((str(added[i]) for i in control_ids(encoders.error)), key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, texts)) or "(?!)")
    twin = _masked(scenario.messages, control)
    if twin == scenario.messages:
        return check(encoders.escape, scenario.messages, scenario.tools)
    pairs = enumerate(zip(scenario.messages, twin, strict=True))
    attacked = tuple(index for index, (message, other) in pairs if message != other)
    attack = Attack(scenario.name, scenario.messages, twin, attacked, scenario.tools)
    return check_escaped(encoders, attack)


def _masked(value: Any, control: re.Pattern[str]) -> Any:
    """Replace control tokens by letters, one for one, in every string but roles."""
    if isinstance(value, str):
        return control.sub(lambda found: "z" * len(found.group()), value)
    if isinstance(value, dict):
        return {k: v if k == "role" else _masked(v, control) for k, v in value.items()}
    return [_masked(v, control) for v in value] if isinstance(value, list) else value


def facts_of_template(name: str) -> list[TemplateFacts]:
    """Run the doctor on one template; whether it is at parity is what the cases tell."""
    encoder = Encoder(corpus.tokenizer_for(name), chat_template=corpus.template_source(name))
    topics = [topic for topic in TOPICS if topic != "parity"]
    return [(name, columns_of(diagnose(encoder, topics=topics)))]


def run(
    what: str, cases_of: Callable[[str], list[R]], names: Sequence[str], workers: int
) -> list[R]:
    """Check many, in processes."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.imap(cases_of, names, chunksize=1)
        return [
            case
            for cases in track(results, what, total=len(names), console=Console(stderr=True))
            for case in cases
        ]


def report(results: Sequence[Result], title: str, console: Console) -> tuple[int, float]:
    """Print what was found; return the number of wrong cases and the exact share."""
    status = Counter(case.status for *_, case in results)
    existing = status["exact"] + status["refused"] + status["wrong"]
    table = Table("cases", "count", "share of those with a completion", title=f"Parity: {title}")
    for name in ("exact", "refused", "wrong"):
        table.add_row(name, f"{status[name]:,}", f"{status[name] / max(existing, 1):.2%}")
    for name in ("no completion", "incomparable", "raises"):
        table.add_row(f"[dim]{name}", f"[dim]{status[name]:,}", "")
    console.print(table)
    reasons = Table("why not", "reason", "cases", "in", "for example")
    count = Counter(
        (case.status, reason_of(case))
        for *_, case in results
        if case.status in ("refused", "no completion", "incomparable")
    )
    for (kind, reason), number in count.most_common():
        hits = [(n, s) for n, s, c in results if (c.status, reason_of(c)) == (kind, reason)]
        where = str(len({name for name, _ in hits}))
        reasons.add_row(kind, reason, f"{number:,}", where, "\n".join(hits[0]))
    console.print(reasons)
    for name, scenario, case in results:
        if case.status == "wrong" or "derivations_disagree" in case.detail:
            console.print(f"WRONG {name} {scenario}: {case.detail}", style="red", markup=False)
    disagree = sum("derivations_disagree" in case.detail for *_, case in results)
    return status["wrong"] + disagree, exact_share(status)


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="check every n-th only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.999, help="exact share to pass")
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--check", type=Path, help="require that this page is true")
    arguments = parser.parse_args()
    if not corpus.template_names():
        print(f"no corpus at {corpus.ROOT}", file=sys.stderr)
        return 2
    begun = time.perf_counter()
    templates = corpus.template_names()[:: arguments.every]
    tokenizers = corpus.tokenizer_names()[:: arguments.every]
    of_templates = run("templates", cases_of_template, templates, arguments.workers)
    facts = run("what they do", facts_of_template, templates, arguments.workers)
    of_tokenizers = run("tokenizers", cases_of_tokenizer, tokenizers, arguments.workers)
    console = Console(width=120)
    wrong, share = report(of_templates, "templates", console)
    wrong_tokenizers, _ = report(of_tokenizers, "tokenizers", console)
    _, share_of_all = report([*of_templates, *of_tokenizers], "all", console)
    print(
        f"{len(templates)} templates, {len(tokenizers)} tokenizers, "
        f"{len(of_templates) + len(of_tokenizers):,} cases, {time.perf_counter() - begun:.0f} s: "
        f"{share_of_all:.3%} exact, {wrong + wrong_tokenizers} wrong"
    )
    written = page(of_templates, of_tokenizers, dict(facts))
    if arguments.write:
        arguments.write.write_text(written, encoding="utf-8")
    if arguments.check:
        page_as_it_is = arguments.check.read_text(encoding="utf-8")
        changes = difflib.unified_diff(
            page_as_it_is.splitlines(), written.splitlines(), "page", "now"
        )
        if shown := list(islice(changes, 60)):
            print(f"{arguments.check} is not true any more: write it again with --write")
            print("\n".join(shown))
            return 1
    passed = not wrong + wrong_tokenizers and min(share, share_of_all) >= arguments.at_least
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
