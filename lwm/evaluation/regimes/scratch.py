"""Networks that start from random weights: baselines of a few-shot table."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

# Filters of the deep CNN's stages and units of its hidden layer: ours, see deep_cnn.
_DEEP_WIDTHS = (32, 64, 128, 256)
_DEEP_HIDDEN = 256
_DEEP_DROPOUT = 0.5


class Standardised(nn.Module):
    """A network from scratch behind the standardisation that an encoder has inside: dB in, outputs out.

    Args:
        network: takes standardised pictures ``[B, C, F, T]``.
        mean: dB, of the data set's training split.
        std: dB, > 0.
    """

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[B, outputs]`` of dB pictures ``[B, C, F, T]``."""
        return self.network((x - self.mean) / self.std)


def small_cnn(in_chans: int, outputs: int) -> nn.Module:
    """Four 3x3 convolutions with batch norm and pooling, then mean and linear: about 100,000 weights."""
    widths = (in_chans, 16, 32, 64, 128)
    stages = [nn.Sequential(*_convolution(a, b), nn.MaxPool2d(2)) for a, b in pairwise(widths)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))


def deep_cnn(in_chans: int, outputs: int) -> nn.Module:
    """The "Deep CNN" that LWM-Spectro (arXiv 2601.08780, tables II and III) compares with, re-implemented.

    The paper names it and the works it is from (CNNs on spectrograms for joint SNR and Doppler and for modulation) but
    gives no table of layers. Ours: four stages of two 3x3 convolutions with batch norm, ReLU and 2x2 max pooling, 32
    to 256 filters, then a hidden layer of 256 units with dropout on the mean of each filter: about 1.2 million weights.
    """
    widths = (in_chans, *_DEEP_WIDTHS)
    stages = [nn.Sequential(*_convolution(a, b), *_convolution(b, b), nn.MaxPool2d(2)) for a, b in pairwise(widths)]
    hidden = (nn.Linear(widths[-1], _DEEP_HIDDEN), nn.ReLU(), nn.Dropout(_DEEP_DROPOUT))
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden, nn.Linear(_DEEP_HIDDEN, outputs))


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _timm(architecture: str) -> Callable[[int, int], nn.Module]:
    def build(in_chans: int, outputs: int) -> nn.Module:
        import timm

        network: Any = timm.create_model(architecture, pretrained=False, in_chans=in_chans, num_classes=outputs)
        return network

    return build


SCRATCH: dict[str, Callable[[int, int], nn.Module]] = {
    "cnn": small_cnn,
    "deep_cnn": deep_cnn,
    "resnet18": _timm("resnet18"),
    "efficientnet_b0": _timm("efficientnet_b0"),
    "mobilenetv3": _timm("mobilenetv3_small_100"),
}
"""Networks trained from scratch: ``(in_chans, outputs) -> network``; timm's have random weights."""
