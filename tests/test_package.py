"""What the package exports, and what importing it must not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

import lossmask


def test_the_exported_names_are_all_there_and_sorted() -> None:
    assert lossmask.__all__ == sorted(lossmask.__all__)
    assert set(lossmask.__all__) <= set(dir(lossmask))
    for name in lossmask.__all__:
        getattr(lossmask, name)
    public = {
        name
        for name, value in vars(lossmask).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"TYPE_CHECKING", "annotations", "import_module"} | {"__version__"} == set(
        lossmask.__all__
    )


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lossmask' has no attribute 'encode'"):
        lossmask.encode  # type: ignore[attr-defined]  # noqa: B018


def test_exported_classes_live_in_the_package() -> None:
    for name in lossmask.__all__:
        exported = getattr(lossmask, name)
        assert name == "__version__" or exported.__module__.startswith("lossmask.")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert lossmask.__version__ == version("lossmask")


def imported(code: str, *modules: str) -> list[str]:
    """Return which modules are imported once code has run in a process of its own."""
    code += f";import sys;print(*[name for name in {modules!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_package_imports_nothing_of_it() -> None:
    assert imported("import lossmask", "numpy", "lossmask.encoder", "lossmask.errors") == []
    used = "import lossmask; lossmask.LossmaskError"
    assert imported(used, "numpy", "lossmask.errors") == ["lossmask.errors"]


def test_what_takes_seconds_is_not_imported_before_it_is_needed() -> None:
    code = "import lossmask.encoder, lossmask.preparing, lossmask.cli, lossmask.terminal"
    assert imported(code, "torch", "transformers", "datasets", "pandas") == []


def test_help_of_the_command_imports_no_command() -> None:
    code = "from typer.testing import CliRunner; from lossmask.cli import app;"
    code += "assert 'prepare' in CliRunner().invoke(app, ['--help']).output"
    assert imported(code, "numpy", "lossmask.errors", "lossmask.prepare_command") == []
    code = code.replace("--help", "prepare', '--help")
    wanted = ("torch", "transformers", "lossmask.prepare_command", "lossmask.train_command")
    assert imported(code, *wanted) == ["lossmask.prepare_command"]
