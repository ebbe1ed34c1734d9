"""Reconstruction accuracy on the resource grid: which cells are on the air (arXiv 2411.09996)."""

from torch import Tensor
from torch.nn.functional import avg_pool2d

from lwm.models.encoder import unpatchify

POOL = 4
"""Side of the squares that are averaged before they are called occupied or vacant, in cells."""

DEVIATIONS = 0.5
"""The threshold, in deviations above the mean of the picture."""


def occupied_cells(
    prediction: Tensor, target: Tensor, mask: Tensor, valid: Tensor, patch: int, grid_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Occupied (1) or vacant (0), as predicted and in truth, of all squares that were hidden and are real.

    Squares of :data:`POOL` x :data:`POOL` cells are averaged and compared with mu + 0.5 sigma of the sample's target
    over its real cells. A square counts when all of it was hidden and none of it is padding.

    Args:
        prediction: ``[B, L, C*patch*patch]`` of all patches.
        target: the same of the truth.
        mask: bool ``[B, L]``, True where hidden.
        valid: bool ``[B, T]``, False where padded.
        patch: side of a patch in cells.
        grid_size: rows and columns of the patches.

    Returns:
        int32 ``[n]`` twice.
    """
    truth, guess = (unpatchify(patches, patch, grid_size) for patches in (target, prediction))
    real = valid[:, None, None, :].expand_as(truth)
    count = real.sum((1, 2, 3)).clamp(min=1)
    mean = (truth * real).sum((1, 2, 3)) / count
    variance = ((truth - mean[:, None, None, None]).square() * real).sum((1, 2, 3)) / count
    threshold = (mean + DEVIATIONS * variance.sqrt())[:, None, None, None]
    hidden = unpatchify(mask[..., None].expand_as(target).float(), patch, grid_size)
    asked = avg_pool2d(hidden * real, POOL) > 1 - 1e-6
    return tuple((avg_pool2d(x, POOL) > threshold)[asked].int() for x in (guess, truth))  # type: ignore[return-value]


def on_all_patches(prediction: Tensor, index: Tensor | None, target: Tensor) -> Tensor:
    """Predictions of the patches ``index [B, N]`` among all, ``[B, L, K]``; the target's where nothing is predicted."""
    if index is None:
        return prediction
    return target.scatter(1, index[..., None].expand_as(prediction), prediction.to(target.dtype))
