"""What encoders take for pictures."""

from typing import Protocol

from torch import Tensor


class OfPictures(Protocol):
    """An encoder of pictures with a certain number of channels."""

    in_channels: int


def check_pictures(encoder: OfPictures, x: Tensor, least: int = 16) -> None:
    """Refuse what are no pictures for an encoder.

    Args:
        encoder: The encoder, whose class is named in the message.
        x: Input of the encoder, which should be [B, C, H, W].
        least: Least height and width in pixels.

    Raises:
        ValueError: If x has another shape.
    """
    if x.ndim != 4 or x.shape[1] != encoder.in_channels or min(x.shape[2:]) < least:
        raise ValueError(
            f"{type(encoder).__name__} takes pictures [B, {encoder.in_channels}, H, W] of at least "
            f"{least}×{least}, not {list(x.shape)}: choose in_channels and the picture size to fit each other"
        )
