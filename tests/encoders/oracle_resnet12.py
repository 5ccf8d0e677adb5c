"""Oracle of `ResNet12`: the network as the papers and their authors' code describe it, layer by layer."""

import torch
from torch import Tensor, nn


# Lee et al. 2019 (MetaOptNet), Tian et al. 2020 (RFS)
class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.relu = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = out + self.shortcut(x)
        return self.pool(self.relu(out))


class LiteralResNet12(nn.Module):
    def __init__(self, in_channels: int, w1: int, w2: int, w3: int, w4: int) -> None:
        super().__init__()
        self.layer1 = Block(in_channels, w1)
        self.layer2 = Block(w1, w2)
        self.layer3 = Block(w2, w3)
        self.layer4 = Block(w3, w4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).view(x.size(0), -1)


# Ghiasi et al. 2018
def literal_drop_block(x: Tensor, uniform: Tensor, p: float, size: int) -> Tensor:
    """DropBlock whose squares begin where the uniform numbers, one for each place that fits, are below γ."""
    batch, channels, height, width = x.shape
    rows, columns = height - size + 1, width - size + 1
    gamma = p / size**2 * height * width / (rows * columns)
    mask = torch.ones_like(x)
    for b in range(batch):
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    if uniform[b, c, i, j] < gamma:
                        for k in range(i, i + size):
                            for m in range(j, j + size):
                                mask[b, c, k, m] = 0
    return x * mask * (mask.numel() / mask.sum())
