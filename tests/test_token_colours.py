"""The greener, the more; orange for less than nothing."""

from __future__ import annotations

from lossmask.token_colours import colours_of_weight


def ground(weight: float, turn: int = 0) -> tuple[int, ...]:
    code = colours_of_weight(weight, turn)[1].removeprefix("#")
    return tuple(bytes.fromhex(code))


def test_a_token_is_the_greener_the_more_it_counts() -> None:
    weights = [0.05, 0.1, 0.3, 0.5, 0.9, 1.0, 1.5, 2.0]
    for turn in (0, 1):
        greenness = [g - (r + b) / 2 for r, g, b in (ground(weight, turn) for weight in weights)]
        assert greenness == sorted(set(greenness))
        assert ground(5.0, turn) == ground(2.0, turn)


def test_a_negative_weight_is_orange_whatever_it_is() -> None:
    assert colours_of_weight(-0.1, 1) == colours_of_weight(-3, 1) == ("#4a2500", "#f6c48e")


def test_ink_can_be_read_on_its_ground() -> None:
    def light(code: tuple[int, ...]) -> float:
        linear = [(c / 255 + 0.055) ** 2.4 / 1.055**2.4 for c in code]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    for weight in (-1.0, 0.1, 0.5, 1.0, 2.0):
        for turn in (0, 1):
            ink = tuple(bytes.fromhex(colours_of_weight(weight, turn)[0][1:]))
            assert (light(ground(weight, turn)) + 0.05) / (light(ink) + 0.05) > 4.5  # WCAG AA
