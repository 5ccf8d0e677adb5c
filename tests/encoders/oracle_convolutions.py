"""Oracles of `R2D2Encoder` and `AveragedConv4`: the networks as their authors have them, layer by layer."""

import torch
from torch import Tensor, nn


# Bertinetto et al. 2019
class LiteralR2D2(nn.Module):
    def __init__(self, in_channels: int, w1: int, w2: int, w3: int, w4: int, dropout: float) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(in_channels, w1, 3, padding=1), nn.BatchNorm2d(w1), nn.MaxPool2d(2), nn.LeakyReLU(0.1)
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(w1, w2, 3, padding=1), nn.BatchNorm2d(w2), nn.MaxPool2d(2), nn.LeakyReLU(0.1)
        )
        self.block3 = nn.Sequential(
            nn.Conv2d(w2, w3, 3, padding=1), nn.BatchNorm2d(w3), nn.MaxPool2d(2), nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.block4 = nn.Sequential(
            nn.Conv2d(w3, w4, 3, padding=1), nn.BatchNorm2d(w4), nn.MaxPool2d(2, stride=1),
            nn.LeakyReLU(0.1), nn.Dropout(dropout),
        )  # fmt: skip
        self.pool3 = nn.MaxPool2d(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        third = self.block3(self.block2(self.block1(x)))
        fourth = self.block4(third)
        return torch.cat([torch.flatten(self.pool3(third), 1), torch.flatten(fourth, 1)], 1)


# Tian et al. 2020 (RFS)
class LiteralConvNet4(nn.Module):
    def __init__(self, in_channels: int, w: int) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(in_channels, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block3 = nn.Sequential(
            nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block4 = nn.Sequential(nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU())
        self.average = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return torch.flatten(self.average(x), 1)
