"""The gallery is what the installed tools do, and the README's table names each of its cases."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")


def test_the_gallery_is_what_the_installed_tools_do(tmp_path: Path) -> None:
    if (seen := f"transformers {version('transformers')} and TRL {version('trl')}") not in PAGE:
        pytest.skip(f"written with other versions than {seen}")
    program = [sys.executable, str(ROOT / "scripts" / "make_gallery.py")]
    made = subprocess.run(
        [*program, str(tmp_path / "gallery.md"), "--table"], check=True, capture_output=True
    )
    assert (tmp_path / "gallery.md").read_text(encoding="utf-8") == PAGE
    assert made.stdout.decode() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_case_shows_a_difference_or_a_refusal() -> None:
    cases = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(cases) == 10
    for case in cases:
        assert re.search(r"^\* |^\w+Error: ", case, flags=re.MULTILINE), case
