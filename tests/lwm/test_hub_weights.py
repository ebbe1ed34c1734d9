"""Weights files that are sound and look as if they were not."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from lwm.hub import WEIGHTS
from lwm.hub_weights import require_finite_file


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    """Lengths are multiples of eight: one in thirty-two begins with a pickle's 0x80."""
    path = tmp_path / WEIGHTS
    for size in range(1, 400):
        save_file({("a" * size): torch.zeros(1)}, path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    require_finite_file(path)
