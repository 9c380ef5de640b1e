"""Draw the picture of the README: what ``lossmask show`` prints for one conversation.

python scripts/make_picture.py docs/show.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.terminal import show_example

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Chile?"},
    {"role": "assistant", "content": "Santiago."},
    {"role": "user", "content": "Is Santiago on the coast?"},
    {"role": "assistant", "content": "No, it is about 100 km inland."},
]


def main() -> None:
    """Write the picture."""
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode(MESSAGES)
    console = Console(record=True, file=io.StringIO(), width=88, force_terminal=True)
    console.print(show_example(example, MESSAGES, number=1, total=1, colour=True))
    svg = console.export_svg(
        title="lossmask show chats.jsonl --tokenizer my-model", unique_id="show"
    )
    without_web_fonts = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    Path(sys.argv[1]).write_text(without_web_fonts, encoding="utf-8")


if __name__ == "__main__":
    main()
