"""Label-preserving views of spectrograms: what another receiver, tuned and started elsewhere, would have seen."""

import torch
from torch import Tensor

FREQUENCY_SHARE = 0.1
"""Largest shift in frequency, as a share of the band (ours)."""


def shifted_views(x: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures shifted in time and frequency and mirrored in frequency, each by its own draw.

    A shift wraps around: in time by any amount, for whole pictures only (a padded one stays where it is); in frequency
    by up to :data:`FREQUENCY_SHARE` of the band. Half are mirrored about their centre, as by a receiver that takes the
    other sideband.

    Args:
        x: dB ``[B, C, F, T]``, rows frequency.
        valid: bool ``[B, T]``, False where padded.
        generator: of the draws, on the CPU.

    Returns:
        the same shape.
    """
    batch, _, rows, columns = x.shape
    along = torch.randint(0, columns, (batch,), generator=generator)
    most = int(FREQUENCY_SHARE * rows)
    across = torch.randint(-most, most + 1, (batch,), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    along = torch.where(valid.cpu().all(1), along, 0)
    row = (torch.arange(rows) + across[:, None]) % rows
    row = torch.where(mirrored[:, None], rows - 1 - row, row).to(x.device)
    column = ((torch.arange(columns) + along[:, None]) % columns).to(x.device)
    picked = x.gather(2, row[:, None, :, None].expand_as(x))
    return picked.gather(3, column[:, None, None, :].expand_as(x))
