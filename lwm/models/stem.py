"""From the cells of a patch to a token: one linear layer, or a small pyramid of them."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import gelu

from lwm.errors import ConfigError


class PatchPyramid(nn.Module):
    """Squares of 2 x 2 cells, then squares of those, until a patch is one token; GELU between the levels.

    After the hMLP stem of Touvron et al. ("Three things everyone should know about Vision Transformers", 2022, section
    5), without its batch norms: a patch is never looked at together with another, so that masked modelling may hide it,
    unlike behind a stem of convolutions. One linear layer cannot tell how much neighbouring cells differ, which is
    what noise and the amplitudes of a constellation look like; a pyramid can.

    Args:
        channels: of the picture.
        patch: side of a patch in cells, a power of two from 2.
        width: token width; half of it below the last level.

    Raises:
        ConfigError: a patch that cannot be halved down to one.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        levels = patch.bit_length() - 1
        if patch != 2**levels or not levels:
            raise ConfigError(f"a pyramid stem with patch {patch}", "a power of two from 2", "set stem: linear")
        self.channels, self.patch = channels, patch
        sizes = [channels, *[width // 2] * (levels - 1), width]
        self.levels = nn.ModuleList(nn.Linear(4 * before, after) for before, after in pairwise(sizes))
        self.top = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens ``[..., width]`` of patches ``[..., C * patch * patch]``, channel by channel, row by row."""
        x = patches.unflatten(-1, (self.channels, self.patch, self.patch)).movedim(-3, -1)
        for level in self.levels:
            x = gelu(level(_squares(x)))
        return self.top(x.flatten(-3))


def share_channels(weights: dict[str, Tensor], before: int, after: int) -> None:
    """Make an encoder's stem read another number of channels: the same picture in each embeds as it did.

    Args:
        weights: an encoder's state dict; the entry of its stem's first layer is replaced.
        before: channels that it reads.
        after: channels that it is to read.
    """
    name, axis = ("patch_embed.weight", 1) if "patch_embed.weight" in weights else ("patch_embed.levels.0.weight", -1)
    # A linear stem has a column for every cell of one channel after another, a pyramid all channels of a cell together.
    sizes = (before, -1) if axis == 1 else (-1, before)
    matrix = weights[name].unflatten(1, sizes).sum(axis, keepdim=True) / after
    weights[name] = matrix.repeat_interleave(after, axis).flatten(1)


def _squares(x: Tensor) -> Tensor:
    """``[..., n, n, c]`` to ``[..., n/2, n/2, 4c]``."""
    half = x.shape[-2] // 2
    return x.unflatten(-3, (half, 2)).unflatten(-2, (half, 2)).transpose(-4, -3).flatten(-3)
