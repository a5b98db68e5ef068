"""Colours that everybody can tell apart, and letters that can be read."""

import itertools

import numpy as np
import pytest

from univa.figures.style import MARKERS, THEMES, Theme, shape_of, shorten, va_colors

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as it is seen.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def hexadecimal(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def lab(rgb: np.ndarray, vision: str) -> np.ndarray:
    seen = np.clip(VISION[vision] @ linear(rgb), 0, 1)
    x = TO_XYZ @ seen / np.array([0.95047, 1, 1.08883])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(hexadecimal(color))) for color in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_colours_are_told_apart_by_the_colour_blind(theme: Theme):
    for vision in VISION:
        for a, b in itertools.combinations(theme.series, 2):
            distance = np.linalg.norm(lab(hexadecimal(a), vision) - lab(hexadecimal(b), vision))
            assert distance > 10, f"{a} and {b} with {vision}"  # 2.3 is just noticeable
    assert len({(theme.color(i), MARKERS[shape_of(i)]) for i in range(49)}) == 49
    assert [shape_of(i) for i in range(7)] == [*range(7)]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_colours_stand_out_from_the_paper(theme: Theme):
    assert contrast(theme.ink, theme.paper) > 7
    for color in theme.series:
        assert contrast(color, theme.paper) >= 3, color  # WCAG 1.4.11


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_valence_arousal_colours_keep_their_order_for_the_colour_blind(theme: Theme):
    steps = np.linspace(-2, 2, 5)
    for vision in VISION:
        by_valence = [lab(va_colors(np.array([v, 0.0]), theme), vision)[2] for v in steps]
        assert by_valence == sorted(by_valence)
        assert by_valence[-1] - by_valence[0] > 60  # blue to yellow
        by_arousal = [lab(va_colors(np.array([0.0, a]), theme), vision)[0] for a in steps]
        assert by_arousal == sorted(by_arousal)
        assert by_arousal[-1] - by_arousal[0] > 35  # dark to light
    corners = va_colors(np.array([[-9.0, 9.0], [-2.0, 2.0]]), theme)
    assert np.array_equal(corners[0], corners[1])


def test_long_names():
    assert shorten("demo") == "demo"
    assert shorten("a" * 30 + "-1111", 10) == "…aaaa-1111"
