"""Label-preserving views of spectrograms: what another receiver, tuned and started elsewhere, would have seen."""

from collections.abc import Mapping

import torch
from torch import Tensor

FREQUENCY_SHARE = 0.1
"""Largest shift in frequency, as a share of the band (ours)."""

GAIN_DB = 3.0
"""Largest change of level, in dB (ours)."""

NOISE_BELOW_DB = 10.0
"""Least distance in dB of added noise below a picture's own floor: it costs at most 0.41 dB of SNR (ours)."""

_FLOOR_QUANTILE = 0.1


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


def rf_views(
    pictures: Mapping[str, Tensor], valid: Tensor, floor_db: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """One more reception of the same signals, which keeps technology, modulation, mobility and, to 0.41 dB, SNR.

    Each sample gets its own shift in time (wrapping around; padded pictures stay), carrier frequency offset of up to
    :data:`FREQUENCY_SHARE` of the band in whole rows and a fraction of one (power is interpolated between rows), gain
    of up to :data:`GAIN_DB`, and noise at least :data:`NOISE_BELOW_DB` below its own floor.

    Args:
        pictures: name to dB ``[B, C, F, T]``, changed alike; only ``"spectrogram"`` gets noise.
        valid: bool ``[B, T]``, False where padded.
        floor_db: lower clip of the recipe, dB; padding and empty cells stay there.
        generator: of the draws, on the CPU.

    Returns:
        The same names and shapes.
    """
    batch, _, rows, columns = pictures["spectrogram"].shape
    device = pictures["spectrogram"].device
    along = torch.randint(0, columns, (batch,), generator=generator)
    along = torch.where(valid.cpu().all(1), along, 0)
    offset = (2 * torch.rand(batch, generator=generator) - 1) * FREQUENCY_SHARE * rows
    gain = (2 * torch.rand(batch, 1, 1, 1, generator=generator) - 1) * GAIN_DB
    column = ((torch.arange(columns) + along[:, None]) % columns).to(device)
    changed = {
        name: (_moved(picture, offset, column) + gain.to(device)).clamp(min=floor_db)
        for name, picture in pictures.items()
    }
    real = valid.to(device)[:, None, None, :]
    noisy = _with_noise(changed["spectrogram"], generator)
    changed["spectrogram"] = noisy
    return {name: torch.where(real, picture, pictures[name]) for name, picture in changed.items()}


def _moved(picture: Tensor, offset: Tensor, column: Tensor) -> Tensor:
    """A dB picture after a frequency offset in rows ``[B]`` and a walk through its columns ``[B, T]``."""
    rows = picture.shape[2]
    whole = offset.floor()
    part = (offset - whole)[:, None, None, None].to(picture.device)
    source = (torch.arange(rows) - whole[:, None].long()) % rows
    near, far = (row.to(picture.device)[:, None, :, None].expand_as(picture) for row in (source, (source - 1) % rows))
    power = 10 ** (picture / 10)
    mixed = 10 * ((1 - part) * power.gather(2, near) + part * power.gather(2, far)).log10()
    return mixed.gather(3, column[:, None, None, :].expand_as(mixed))


def _with_noise(picture: Tensor, generator: torch.Generator) -> Tensor:
    """A dB picture with complex Gaussian noise added in power, 10 to 30 dB below its own floor."""
    batch = picture.shape[0]
    cells = picture.flatten(1)
    floor = cells.kthvalue(max(1, round(_FLOOR_QUANTILE * cells.shape[1])), dim=1).values
    below = NOISE_BELOW_DB + 20.0 * torch.rand(batch, generator=generator)
    level = 10 ** ((floor - below.to(picture.device)) / 10)
    # The power of complex Gaussian noise in a cell is exponentially distributed.
    drawn = -torch.rand(picture.shape, generator=generator).clamp(min=1e-7).log().to(picture.device)
    return 10 * (10 ** (picture / 10) + level[:, None, None, None] * drawn).log10()
