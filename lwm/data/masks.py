"""Classes of the cells of a scene's picture."""

from collections.abc import Sequence

NOISE = "noise"
"""Class 0 of a mask; technology ``i`` of the plan is class ``i + 1``."""

PADDED = 255
"""Class of cells in which a short capture was padded: neither noise nor signal (``VOID`` of segmentation heads)."""


def mask_names(technologies: Sequence[str]) -> list[str]:
    """Names of a mask's classes in the order of their codes, for scenes of these technologies."""
    return [NOISE, *technologies]
