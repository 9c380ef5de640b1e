"""Each example runs as it stands, and prints the figures that it is there for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = {
    "alpaca_end_of_text": r"""170 train, 10 validation, 20 test
170 texts, 170 ends of text in the loss, 2405 paddings out of it
loss of the model as it comes: 8\.\d\d
""",
    "assistant_masks": r"""without tags: \['A letter.<\|im_end\|>', 'Kira 🙂<\|im_end\|>'\]
in the loss: 16 of 43 tokens without tags
with tags: 16; with tags that leave the end of turn out: 11
lost: \['<\|im_end\|>', 'Ł', 'Ļ', 'Ĥ', '<\|im_end\|>'\]
""",
    "completion_only_collator": r"""first answer: ' returns \| can wait \| mail<\|im_end\|>'
1192 tokens in 8 rows, 124 of them in the loss
8 of 8 ends of turn in the loss
loss on the answers: 10\.\d\d -> [0-4]\.\d\d
""",
    "human_assistant_bos_eos": r"""(?:[ ^] '[^\n]+'\n){70}70 tokens, 20 in the loss, 2 ends of turn
""",
    "ignore_yes_no_tokens": r"""all:     200 answers of 600 tokens
epoch 0: 200 answers of 286 tokens, 37 ends of turn
epoch 1: 200 answers of 290 tokens, 39 ends of turn
epoch 2: 200 answers of 283 tokens, 40 ends of turn
""",
}
EXAMPLES = [Path(__file__).parents[1] / "examples" / f"{name}.py" for name in FIGURES]
QUICK = ("assistant_masks", "human_assistant_bos_eos", "ignore_yes_no_tokens")


def test_the_five_walk_throughs_are_there_and_short() -> None:
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES}
    assert FIGURES.keys() <= lines.keys()
    assert all(lines[name] < 60 for name in FIGURES)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in QUICK else [pytest.mark.slow], id=path.stem)
        for path in EXAMPLES
    ],
)
def test_an_example_runs_and_prints_its_figures(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "utf8", str(path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(FIGURES.get(path.stem, r"(?s:.*)"), run.stdout), run.stdout
