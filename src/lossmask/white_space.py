"""Which characters of a text are white space, all at once."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

_LAST = 0x3000  # ideographic space: no white space has a higher number


def is_visible(text: str) -> npt.NDArray[np.bool_]:
    """Return for each character whether it is no white space, bool (n,).

    Example:
        >>> is_visible("a b").tolist()
        [True, False, True]
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    visible: npt.NDArray[np.bool_] = _visible_codes()[np.minimum(codes, _LAST + 1)]
    return visible


@cache
def _visible_codes() -> npt.NDArray[np.bool_]:
    return np.array([not chr(code).isspace() for code in range(_LAST + 2)])
