"""Random changes to training images that keep their class, or that turn classes into others."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.arguments import checked_class
from quickstudy.core.pixels import pixel_places
from quickstudy.data.augment.augment import Augment, check_pictures


@checked_class
@dataclass(frozen=True)
class RandomAffine:
    """Rotate, shear, scale and shift each image at random about its center.

    Args:
        degrees: Largest rotation in degrees; angles are uniform in ± this value.
        shear: Largest shear of each axis, as a tangent; shears are uniform in ± this value.
        scale: Smallest and largest factor of the size along each axis; factors are uniform between the two.
        shift: Largest shift along each axis in pixels; shifts are uniform in ± this value.
        probability: Probability of each change, separately for each image and axis, in [0, 1].
        padding: Pixels that enter at the edges: "zeros", the background of ink, or "border", the nearest one.

    Raises:
        ValueError: If a range is negative, a scale is not positive, or the probability is not in [0, 1].

    Reference: Koch, Zemel, Salakhutdinov 2015, §3.3; the defaults are theirs, for images of 105 × 105 pixels.
    """

    degrees: float = 10.0
    shear: float = 0.3
    scale: tuple[float, float] = (0.8, 1.2)
    shift: float = 2.0
    probability: float = 0.5
    padding: Literal["zeros", "border"] = "zeros"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if min(self.degrees, self.shear, self.shift) < 0 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"{self}: degrees, shear and shift must be at least 0, and scale two rising positive numbers"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: it must lie in 0 … 1")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change square float images [B, C, H, H]."""
        check_pictures(self, x)

        def draw(low: float, high: float, neutral: float, shape: tuple[int, ...]) -> Tensor:
            drawn = rng.uniform(low, high, shape)
            return torch.from_numpy(np.where(rng.random(shape) < self.probability, drawn, neutral))

        b, one = len(x), torch.ones(len(x)).double()
        angle = draw(-self.degrees, self.degrees, 0, (b,)).deg2rad()
        shear = draw(-self.shear, self.shear, 0, (2, b))
        scale = draw(*self.scale, 1, (b, 2))
        shift = draw(-self.shift, self.shift, 0, (b, 2, 1)) * 2 / x.shape[-1]
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(b, 2, 2)
        lean = torch.stack([one, shear[0], shear[1], one], 1).view(b, 2, 2)
        # the grid holds the place that each pixel comes from, hence the inverse
        back = torch.linalg.inv(turn @ lean @ torch.diag_embed(scale))
        matrix = torch.cat([back, -back @ shift], 2).to(x)
        places = F.pad(pixel_places(x.shape[2], x.shape[3], x), (0, 1), value=1.0)
        # one matrix product for the batch: F.affine_grid takes a hundred times as long on a CPU
        grid = torch.einsum("hwk,bjk->bhwj", places, matrix)
        return F.grid_sample(x, grid, padding_mode=self.padding, align_corners=False)


@checked_class
@dataclass(frozen=True)
class ElasticTransform:
    r"""Deform each image at random by a smooth displacement field u: the pixel at p comes from p + u(p).

    u is drawn from a normal distribution at the nodes of a coarse grid over the image, and interpolated
    between them by cubics. Its standard deviation is drawn for each image, uniformly in [0, amplitude].

    Args:
        amplitude: Largest standard deviation of the displacements at the nodes, along each axis, in pixels.
        nodes: Number of nodes of the grid along a side, at least 2.

    Raises:
        ValueError: If the amplitude is negative, or there are fewer than two nodes.

    Reference: Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks applied to
    visual document analysis".

    Departures: the paper draws a displacement for each pixel and smooths them by a Gaussian.
    """

    amplitude: float = 2.5
    nodes: int = 4

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.amplitude < 0 or self.nodes < 2:
            raise ValueError(f"{self}: the amplitude must be at least 0, and nodes at least 2")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change float images [B, C, H, W]; zeros enter at the edges."""
        check_pictures(self, x)
        height, width = x.shape[2:]
        pixels = rng.standard_normal((len(x), 2, self.nodes, self.nodes)) * rng.uniform(
            0, self.amplitude, (len(x), 1, 1, 1)
        )
        coarse = torch.from_numpy(pixels).to(x) * 2 / torch.tensor([width, height]).to(x)[:, None, None]
        u = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        places = pixel_places(height, width, x) + u.permute(0, 2, 3, 1)
        return F.grid_sample(x, places, align_corners=False)


@checked_class
@dataclass(frozen=True)
class SameOnBatch:
    """Apply one random draw of a change to all images of the batch.

    With `Episodes(augment_classes=…)` all classes of a task undergo the same change: its characters keep
    their differences, but become another alphabet, such as a mirrored, slanted or wider one.

    Args:
        change: Augmentation of images with any number of channels; the batch is passed to it as the channels
            of a single image.
    """

    change: Augment

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change images [..., C, H, W], such as [N, B, C, H, W] of N classes."""
        check_pictures(self, x[0] if x.ndim == 5 else x)
        return self.change(x.reshape(1, -1, *x.shape[-2:]), rng).reshape(x.shape)


@checked_class
@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Flip each image horizontally at random; for faces, not for letters.

    Args:
        probability: Probability that an image is flipped, in [0, 1].
    """

    probability: float = 0.5

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change images [B, C, H, W]."""
        check_pictures(self, x)
        mirrored = torch.from_numpy(rng.random(len(x)) < self.probability).to(x.device)
        return torch.where(mirrored[:, None, None, None], x.flip(3), x)


@checked_class
@dataclass(frozen=True)
class RandomCrop:
    """Pad each image on all sides and crop it back to its size, at a random place.

    Args:
        padding: Number of pixels that are added on each side; shifts are uniform in ± this value, in whole
            pixels, along each axis.
        mode: Pixels that are added: "reflect", the image mirrored at its outermost pixels, which are not
            repeated, or "zeros".

    Raises:
        ValueError: If the padding is negative or the mode unknown; when called, if images are too small to be
            mirrored so far.

    Reference: He et al. 2016, "Deep residual learning for image recognition", who pad pictures of 32 × 32
    pixels by 4 pixels of zeros.
    """

    padding: int = 4
    mode: Literal["reflect", "zeros"] = "reflect"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}: it must be at least 0")
        if self.mode not in ("reflect", "zeros"):
            raise ValueError(f"mode is {self.mode!r}: it must be 'reflect' or 'zeros'")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Shift images [B, C, H, W] of any size."""
        check_pictures(self, x)
        height, width = x.shape[2:]
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"padding is {self.padding}, but images of {height} × {width} pixels can be mirrored by less "
                "than their side only: lower it, or choose mode='zeros'"
            )
        padded = F.pad(x, (self.padding,) * 4, "reflect" if self.mode == "reflect" else "constant")
        down, across = torch.from_numpy(rng.integers(0, 2 * self.padding + 1, (2, len(x)))).to(x.device)
        # a view of all crops [B, C, 2 p + 1, 2 p + 1, H, W], of which one is copied for each image
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        return crops[torch.arange(len(x), device=x.device), :, down, across]


@checked_class
@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation of each image at random, in a random order.

    Each of the three blends the image with another one, x ← f x + (1 − f) other, cut off at 0 and 1:
    brightness with black, contrast with the mean of the grey image, saturation with the grey image itself.

    Args:
        brightness: Largest change of brightness; the factor f is uniform in 1 ± this value, but not below 0.
        contrast: Largest change of contrast; f as for brightness.
        saturation: Largest change of saturation; f as for brightness. Grey images are not changed by it.

    Raises:
        ValueError: If one of the three is negative.

    Departures: the definitions are those of torchvision's class of the same name, without the hue. There one
    call draws one order and one factor for all that it is given, here each image has its own.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        """Check the arguments."""
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError(f"{self}: brightness, contrast and saturation must be at least 0")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change images [B, C, H, W] in [0, 1], of 3 channels or of one; the result stays in [0, 1]."""
        check_pictures(self, x, in_unit=True)
        most = np.array([self.brightness, self.contrast, self.saturation])
        factors = rng.uniform(np.maximum(0, 1 - most), 1 + most, (len(x), 3))
        orders = rng.permuted(np.tile(np.arange(3), (len(x), 1)), axis=1)
        grey_of = torch.tensor([GREY if x.shape[1] == 3 else (1.0,)], dtype=torch.float64).to(x)
        pixels = x.flatten(2)
        for which in orders.T:  # the first change of each image, then the second, then the third
            f = factors[np.arange(len(x)), which]
            if (f == 1).all():
                continue
            grey = grey_of @ pixels  # [B, 1, H W]
            rest = (1 - f) * (
                np.array([[0, 1, 0], [0, 0, 1]])[:, which]
            )  # of the mean, and of the grey image
            of_mean, of_grey = torch.from_numpy(rest).to(x)[..., None, None]
            other = grey * of_grey + grey.mean(2, keepdim=True) * of_mean
            kept = torch.from_numpy(f).to(x)[:, None, None]
            pixels = torch.addcmul(other, pixels, kept).clamp_(0, 1)
        return pixels.view_as(x)


GREY = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in the brightness that is seen, as torchvision has them (ITU-R 601)."""


@checked_class
@dataclass(frozen=True)
class BrightnessContrast:
    """Change brightness and contrast of each image at random: x ← (x − m) c + m + b, where m is its mean.

    Args:
        brightness: Largest change of brightness; b is uniform in ± this value, where black is 0 and white 1.
        contrast: Largest change of contrast; c is uniform in 1 ± this value.
    """

    brightness: float = 0.2
    contrast: float = 0.4

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change images [B, C, H, W] in [0, 1]; the result stays in [0, 1]."""
        check_pictures(self, x, in_unit=True)
        each = (len(x), 1, 1, 1)
        b = torch.from_numpy(rng.uniform(-self.brightness, self.brightness, each)).to(x)
        c = torch.from_numpy(rng.uniform(1 - self.contrast, 1 + self.contrast, each)).to(x)
        mean = x.mean((1, 2, 3), keepdim=True)
        return ((x - mean) * c + mean + b).clamp_(0, 1)


@checked_class
@dataclass(frozen=True)
class RandomErasing:
    """Cover a random rectangle of an image with grey (0.5), so that no single feature is relied upon.

    Args:
        probability: Probability that an image is changed, in [0, 1].
        sides: Smallest and largest side of the rectangle, as fractions of the image's side.

    Reference: Zhong et al. 2020, "Random Erasing Data Augmentation".
    """

    probability: float = 0.5
    sides: tuple[float, float] = (0.15, 0.45)

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change images [B, C, H, W]."""
        check_pictures(self, x)
        hidden: Tensor | None = None
        for length in x.shape[2:]:  # an interval of rows, and one of columns
            side = rng.uniform(*self.sides, len(x)) * length
            start = rng.uniform(0, length - side)
            place = np.arange(length)
            within = torch.from_numpy((place >= start[:, None]) & (place < (start + side)[:, None]))
            hidden = within if hidden is None else hidden[:, :, None] & within[:, None, :]
        assert hidden is not None
        erased = hidden & torch.from_numpy(rng.random(len(x)) < self.probability)[:, None, None]
        return torch.where(erased[:, None].to(x.device), 0.5, x)


@checked_class
@dataclass(frozen=True)
class Compose:
    """Apply several augmentations in sequence, to images or clips.

    Args:
        changes: Augmentations in the order of their application.
    """

    changes: tuple[Augment, ...]

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change items [B, ...], or [N, B, ...] if each of the changes takes these."""
        for change in self.changes:
            x = change(x, rng)
        return x


FACE_AUGMENT = Compose(
    (
        RandomAffine(8.0, 0.05, (0.85, 1.15), 4.0, 0.9, "border"),
        RandomHorizontalFlip(),
        BrightnessContrast(),
        RandomErasing(),
    )
)
"""Augmentation of face images that keeps the identity."""
