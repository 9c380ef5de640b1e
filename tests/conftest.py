"""What every test has: a cache of its own, so that nothing is left on the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOSSMASK_CACHE", str(tmp_path_factory.mktemp("lossmask-cache")))
        yield
