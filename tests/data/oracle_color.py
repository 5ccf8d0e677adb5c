"""Crops and jitter of colors, one picture and one pixel at a time, by torchvision's definitions."""

import numpy as np


def crop(picture: np.ndarray, padding: int, down: int, across: int, mode: str) -> np.ndarray:
    """Picture [C, H, W], padded and cropped from (down, across) of the padded one."""
    channels, height, width = picture.shape
    out = np.zeros_like(picture)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y, x = i + down - padding, j + across - padding  # where it was before the padding
                if mode == "reflect":
                    y, x = mirrored(y, height), mirrored(x, width)
                if 0 <= y < height and 0 <= x < width:
                    out[c, i, j] = picture[c, y, x]
    return out


def mirrored(place: int, length: int) -> int:
    if place < 0:
        return -place
    return 2 * (length - 1) - place if place >= length else place


def grey(picture: np.ndarray) -> np.ndarray:
    if len(picture) == 1:
        return picture
    red, green, blue = picture
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[None]


def blend(one: np.ndarray, other: np.ndarray | float, ratio: float) -> np.ndarray:
    return np.clip(ratio * one + (1 - ratio) * other, 0, 1)


def brightness(picture: np.ndarray, factor: float) -> np.ndarray:
    return blend(picture, np.zeros_like(picture), factor)


def contrast(picture: np.ndarray, factor: float) -> np.ndarray:
    return blend(picture, float(grey(picture).mean()), factor)


def saturation(picture: np.ndarray, factor: float) -> np.ndarray:
    if len(picture) == 1:
        return picture
    return blend(picture, grey(picture), factor)


def jitter(picture: np.ndarray, factors: list[float], order: list[int]) -> np.ndarray:
    changes = [brightness, contrast, saturation]
    for which in order:
        picture = changes[which](picture, factors[which])
    return picture
