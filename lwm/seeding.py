"""Random state: every sampled thing comes from a seed and an index, never from global state."""

import zlib

import numpy as np


def rng_for(seed: int, *path: int | str) -> np.random.Generator:
    """Generator for one named draw, the same everywhere whatever the order or number of workers.

    Args:
        seed: the run's seed, >= 0.
        path: what is drawn, as integers and names, for example ``("train", "channel", 17)``. Names enter through
            their CRC-32, so that adding one draw never shifts another.
    """
    key = [item if isinstance(item, int) else zlib.crc32(item.encode()) for item in path]
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=key)))
