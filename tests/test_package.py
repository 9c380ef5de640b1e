"""What the package exports, and what importing it must not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import lossmask


def test_the_exported_names_are_all_there_and_sorted() -> None:
    assert lossmask.__all__ == sorted(lossmask.__all__)
    public = {
        name
        for name, value in vars(lossmask).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"__version__"} == set(lossmask.__all__)


def test_exported_classes_live_in_the_package() -> None:
    for name in lossmask.__all__:
        exported = getattr(lossmask, name)
        assert name == "__version__" or exported.__module__.startswith("lossmask.")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert lossmask.__version__ == version("lossmask")


def test_the_data_commands_do_not_import_torch() -> None:
    code = (
        "import sys, lossmask, lossmask.cli, lossmask.preparing, lossmask.terminal;"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
