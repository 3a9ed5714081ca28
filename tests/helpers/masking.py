"""Layers of defenses that hide the gradient, and nets with them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.trained import digits


class Quantise(nn.Module):
    """Rounds pixels to multiples of 1 / 8."""

    def forward(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


class Thermometer(nn.Module):
    """One channel for each of eight levels: whether the pixel is above it (Buckman et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > torch.linspace(0, 0.9, 8).view(-1, 1, 1)).float()


class JPEGLike(nn.Module):
    """Rounds the coefficients of the 8 x 8 cosine transform."""

    def forward(self, x: Tensor) -> Tensor:
        k = torch.arange(8.0)
        basis = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
        basis[0] /= math.sqrt(2)
        return (basis.T @ (0.3 * (basis @ x @ basis.T / 0.3).round()) @ basis).clamp(0, 1)


class Saturated(nn.Module):
    """A sigmoid so steep that its slope is zero in fp32 almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(1e4 * (x - 0.5))


class StopGradient(nn.Module):
    """Lets a share of the gradient through."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return self.share * x + (1 - self.share) * x.detach()


class Temperature(nn.Module):
    """Logits so large that the softmax saturates."""

    def forward(self, logits: Tensor) -> Tensor:
        return 1e7 * logits


class KWTA(nn.Module):
    """Keeps the largest 30 % of the features of each sample (k winners take all, Xiao et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(1)
        least = features.topk(3 * features.shape[1] // 10, dim=1).values[:, -1:]
        return (features * (features >= least)).view_as(x)


class MeanSparseLike(nn.Module):
    """Replaces what lies within half a standard deviation of its mean by the mean (Amini et al. 2024)."""

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(digits()[0], dim=0)
        return torch.where((x - mean).abs() <= std / 2, mean, x)


class RandomResize(nn.Module):
    """Resizes images to a random size and back."""

    def forward(self, x: Tensor) -> Tensor:
        size = int(torch.randint(5, 8, ()))
        return F.interpolate(F.interpolate(x, size=size, mode="bilinear"), size=x.shape[2:], mode="bilinear")


class DropoutLeftOn(nn.Module):
    """Dropout in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=True)


class QuantisedInside(nn.Module):
    """A block whose own code, and none of its layers, rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.dirac_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (8 * self.first(x)).round() / 8
