"""How much of the occupied spectrum a masked model finds again, by the ratio that is hidden (arXiv 2411.09996)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lwm.models.masking import draw_mask, generator_for
from lwm.study.probes import Pictures, Record
from lwm.tasks.occupancy import occupied_cells

_BATCH = 64
_PICTURES = 512


@torch.inference_mode()
def reconstruction_records(task: Any, pictures: Pictures, ratios: tuple[float, ...], seed: int) -> Iterator[Record]:
    """Balanced accuracy of occupied and vacant squares among the hidden ones, at each ratio.

    Args:
        task: a trained :class:`lwm.tasks.pretrain.MaskedModeling`.
        pictures: a test split.
        ratios: shares of the patches that are hidden, as the model's own masks are shaped.
        seed: of the masks.
    """
    mae = task.mae.eval()
    encoder = mae.encoder
    chosen = np.linspace(0, len(pictures.db) - 1, min(_PICTURES, len(pictures.db))).astype(int)
    wanted = pictures.clean if task.target == "clean" else pictures.db
    assert wanted is not None
    for ratio in ratios:
        right, total = np.zeros(2), np.zeros(2)
        generator = generator_for(seed, "study", "masks", str(ratio))
        for part in np.array_split(chosen, -(-len(chosen) // _BATCH)):
            x, valid = pictures.db[part], pictures.valid[part]
            mask = draw_mask(mae.config.mask, encoder.grid_of(x), ratio, len(x), generator)
            shown = mae.reconstruct(x, mask, wanted[part])
            cells = (encoder.patches(shown), encoder.patches(wanted[part]))
            guess, truth = occupied_cells(*cells, mask, valid, encoder.config.patch, encoder.grid_of(x))
            for value in (0, 1):
                total[value] += int((truth == value).sum())
                right[value] += int(((truth == value) & (guess == truth)).sum())
        yield {
            "task": "reconstruction",
            "mask_ratio": ratio,
            "trained_ratio": mae.config.mask_ratio,
            "accuracy": float(right.sum() / total.sum()),
            "balanced_accuracy": float((right / np.maximum(total, 1)).mean()),
        }
