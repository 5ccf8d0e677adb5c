"""Encoders, modules from items [B, ...] to embeddings [B, D], and heads. Any other `nn.Module` will do."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.adapt import Tensors
from quickstudy.conv4_fused import conv4_per_task
from quickstudy.layers import channels_last, per_task_linear
from quickstudy.per_task import below, per_task

LOW = 0.08
"""Share of the frames by whose level `TDNN` knows what is heard when nobody speaks."""


class Conv4(nn.Module):
    """The four-block convolutional encoder of the few-shot literature.

    Four times: 3×3 convolution, batch norm, ReLU, 2×2 max-pool; then flattened. 28×28 pictures
    give D = `outputs`, 84×84 give D = 25 × `outputs`.

    Args:
        in_channels: Channels of a picture, 1 for grey and 3 for colour.
        channels: Filters of each convolution.
        running_statistics: Batch norm keeps running statistics, and uses them in evaluation. Without, it
            always uses those of the batch, as learners with an inner loop need it.
        outputs: Filters of the last convolution; as many as of the others by default.

    Raises:
        ValueError: If a number is below 1.

    Reference: Vinyals et al. 2016; Snell et al. 2017.

    Departures, neither of which changes the function: ReLU is applied after the max-pool (both are
    monotone, so they commute; a quarter of the work), and the convolutions carry no bias (the batch
    norm that follows would subtract it). Weights and activations are laid out channels-last, which is what
    the processors' convolutions are fastest on; in float32 torch's batch norm rounds more coarsely there (1/σ
    of the first layer to about 1e-3, measured).
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        running_statistics: bool = True,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * 3, channels if outputs is None else outputs]
        if min(widths) < 1:
            raise ValueError(
                f"in_channels is {in_channels}, channels {channels}, outputs {outputs}: "
                "each must be at least 1"
            )
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o, track_running_stats=running_statistics) for o in widths[1:]
        )
        self.in_channels = in_channels
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] pictures in [0, 1] → [B, D] embeddings."""
        self._check(x)
        x = channels_last(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(F.max_pool2d(norm(conv(x)), 2))
        return x.flatten(1)

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with parameters of its own: [T, B, C, H, W] → [T, B, D]."""
        self._check(x[0])
        return conv4_per_task(parameters, x)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 16:
            raise ValueError(
                f"Conv4 takes pictures [B, {self.in_channels}, H, W] of at least 16×16, "
                f"not {list(x.shape)}: choose in_channels and the picture size to fit each other"
            )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1 one, then a 2×2 max-pool: [B, i, H, W] → [B, o, H/2, W/2].

    The sum is pooled first and normalised then, which is a quarter of the work.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.between, self.last = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, i, H, W] → [B, o, H/2, W/2], odd sizes rounded up."""
        y = self.second(F.relu(self.between(self.first(x)))) + self.beside(x)
        return F.relu(self.last(F.max_pool2d(y, 2, ceil_mode=True)))


class ResNet(nn.Module):
    """A small residual network for faces and spectrograms, of any height and width.

    A 5×5 convolution of stride 2, one residual block for each further width, each of which halves height and
    width; the mean over a coarse grid, dropout, and a linear layer with batch norm to D numbers.

    Args:
        in_channels: 1 for grey pictures and spectrograms, 3 for colour.
        widths: filters of the first convolution and of each block.
        dimensions: D.
        grid: rows and columns that the last features are averaged to. Aligned faces want several of both,
            (1, 1) forgets where things are, and spectrograms of words want columns, which are time, in order.
        dropout: share of the features that are left out in training.

    Reference: blocks after He et al. 2016; the last layers after Deng et al. 2019 (ArcFace).
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        dimensions: int = 128,
        grid: tuple[int, int] = (4, 4),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid, self.dropout = in_channels, grid, dropout
        self.stem = nn.Conv2d(in_channels, widths[0], 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(i, o) for i, o in pairwise(widths))
        self.last = nn.Linear(widths[-1] * grid[0] * grid[1], dimensions, bias=False)
        self.last_norm = nn.BatchNorm1d(dimensions)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        """Embed pictures or spectrograms.

        Args:
            x: [B, C, H, W] pictures in [0, 1], or spectrograms.
            return_features: Whether what the linear layer is given comes out as well, behind the embedding:
                F = widths[-1] · rows · columns features, none of them left out.

        Returns:
            [B, D] embeddings, or [B, D + F] with their features.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"ResNet takes [B, {self.in_channels}, H, W], not {list(x.shape)}: choose in_channels to fit"
            )
        x = F.relu(self.stem_norm(self.stem(channels_last(x))))
        for block in self.blocks:
            x = block(x)
        f = F.adaptive_avg_pool2d(x, self.grid).flatten(1)
        z = self.last_norm(self.last(F.dropout(f, self.dropout, self.training)))
        return torch.cat([z, f], 1) if return_features else z


class WithFeatures(nn.Module):
    """An encoder that gives its features behind the embedding, for `ConcatFeatures`.

    Args:
        encoder: Any module that takes `return_features=True`, such as a `ResNet`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D + F] embeddings and features."""
        return self.encoder(x, return_features=True)


class TDNN(nn.Module):
    r"""A time-delay network for voices: convolutions over time, then mean and deviation over time.

    The bands of a spectrogram are its channels. A convolution of 5 frames, then L − 1 of 3 frames, 2, 3, …
    apart, each added to what it is given; a last one of one frame doubles the channels. What is embedded are
    the mean and the standard deviation over time of these, and of the bands themselves, with the level that
    each band is below in so many frames: the noise of a room, and the colour of a voice, as they are.

    $$z = \operatorname{BN}\,W\operatorname{BN}\,
          [\mu(h), \sigma(h), \mu(x), \sigma(x), q_{0.08}(x)]$$

    Args:
        bands: of the spectrogram.
        channels: of each convolution.
        layers: L.
        dimensions: D.
        dropout: share of the statistics that are left out in training.

    Reference: Snyder et al. 2018, "X-vectors: robust DNN embeddings for speaker recognition".

    Departures: there a convolution is not added to what it is given, two layers follow the statistics, of
    which the first makes the embedding, and the bands themselves have no statistics.
    """

    def __init__(
        self,
        bands: int,
        channels: int = 128,
        layers: int = 3,
        dimensions: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.bands, self.dropout = bands, dropout
        self.norm = nn.BatchNorm1d(bands)
        widths = [bands] + [channels] * layers
        self.convs = nn.ModuleList(
            nn.Conv1d(i, o, 3 if at else 5, dilation=at + 1, padding=at + 1 if at else 2, bias=False)
            for at, (i, o) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(layers))
        self.wide = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.wide_norm = nn.BatchNorm1d(2 * channels)
        statistics = 2 * 2 * channels + 3 * bands
        self.statistics_norm = nn.BatchNorm1d(statistics)
        self.last = nn.Linear(statistics, dimensions, bias=False)
        self.last_norm = nn.BatchNorm1d(dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, bands, frames] spectrograms → [B, D] embeddings."""
        if x.ndim != 4 or x.shape[1:3] != (1, self.bands):
            raise ValueError(f"TDNN takes spectrograms [B, 1, {self.bands}, frames], not {list(x.shape)}")
        x = x.squeeze(1)
        h = self.norm(x)
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = F.relu(norm(conv(h)))
            h = h + y if at else y
        h = F.relu(self.wide_norm(self.wide(h)))
        low = x.kthvalue(math.ceil(LOW * x.shape[2]), 2).values
        z = self.statistics_norm(torch.cat([*_over_time(h), *_over_time(x), low], 1))
        return self.last_norm(self.last(F.dropout(z, self.dropout, self.training)))


def _over_time(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, frames] → mean and standard deviation [B, C]."""
    variance, mean = torch.var_mean(x, 2, correction=0)
    return mean, (variance + 1e-4).sqrt()


class TestTimeAugmentation(nn.Module, ABC):
    r"""An encoder that embeds each item and variants of it, and takes the mean.

    $$x \mapsto \frac{1}{1 + V}\Big(f(x) + \sum_{v=1}^V f(x_v)\Big)$$

    In what variants differ, such as where exactly a word begins, matters less then. It is put around an
    encoder after training, and means the same in training and evaluation.

    Args:
        encoder: f, any module from [B, ...] to [B, D].
    """

    __test__ = False  # for pytest, which takes classes of such names for tests

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """Others that items [B, ...] might as well have been, each of their shape."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D] embeddings."""
        z: Tensor = self.encoder(x)
        others = self.variants(x)
        for other in others:
            z = z + self.encoder(other)
        return z / (1 + len(others))


class FlipTTA(TestTimeAugmentation):
    """Pictures [B, C, H, W] and their mirror images: faces are much alike on both sides."""

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """The mirror image."""
        return [x.flip(3)]


class MLP(nn.Module):
    """Fully connected layers with ReLU between them: [B, inputs] → [B, outputs].

    Args:
        inputs: Numbers in an item.
        widths: Units of each hidden layer.
        outputs: Numbers in an output.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *widths, outputs]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] → [B, outputs]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with parameters of its own: [T, B, inputs] → [T, B, outputs]."""
        last = len(self.layers) - 1
        for i in range(last + 1):
            x = per_task_linear(x, parameters[f"layers.{i}.weight"], parameters[f"layers.{i}.bias"])
            x = F.relu(x) if i < last else x
        return x


class Classifier(nn.Module):
    """An encoder and a linear head: what learners of an initialisation adapt.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        ways: N, the number of outputs; tasks may have fewer classes, and then use the first of them.
        dimensions: D, the length of an embedding.
    """

    def __init__(self, encoder: nn.Module, ways: int, dimensions: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dimensions, ways)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, N] scores."""
        return self.head(self.encoder(x))

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with parameters of its own: [T, B, ...] → [T, B, N]."""
        z = per_task(self.encoder, below("encoder", parameters), x)
        if z.shape[-1] != self.head.in_features:
            raise ValueError(
                f"the encoder makes {z.shape[-1]} numbers and the head takes {self.head.in_features}: "
                f"say so, Classifier(encoder, ways, dimensions={z.shape[-1]})"
            )
        return per_task_linear(z, parameters["head.weight"], parameters["head.bias"])
