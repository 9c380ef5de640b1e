"""The colours of tokens by how much they count, for terminals and notebooks, on light and dark."""

from __future__ import annotations

STOP_COLOURS = ("#ffffff", "#c2304a")
"""Ink and ground of a stop token."""

_Colour = tuple[int, int, int]
_PALE: tuple[_Colour, _Colour] = ((216, 224, 218), (228, 234, 230))  # of a weight near 0
_FULL: tuple[_Colour, _Colour] = ((143, 227, 176), (195, 244, 214))  # of 1
_DEEP: tuple[_Colour, _Colour] = ((44, 182, 106), (92, 205, 142))  # of 2 and more
_ORANGE = ("#f0a860", "#f6c48e")


def colours_of_weight(weight: float, turn: int) -> tuple[str, str]:
    """Return ink and ground of a trained token: the greener the more it counts.

    Args:
        weight: Its weight, not 0; a negative one is orange.
        turn: 0 or 1, so that neighbours can be told apart.

    Example:
        >>> colours_of_weight(1, 0), colours_of_weight(-1, 0)
        (('#06351a', '#8fe3b0'), ('#4a2500', '#f0a860'))
    """
    if weight < 0:
        return "#4a2500", _ORANGE[turn]
    low, high, share = _PALE[turn], _FULL[turn], min(weight, 1.0)
    if weight > 1:
        low, high, share = high, _DEEP[turn], min(weight - 1.0, 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return "#06351a", f"#{red:02x}{green:02x}{blue:02x}"
