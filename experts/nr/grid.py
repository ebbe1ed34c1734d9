"""Resource grids of a plan: the carrier's own, and that of the SS/PBCH blocks."""

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import FRAMES, SUBCARRIERS
from experts.nr.plan import Plan
from experts.nr.ssb import LENGTH, WIDTH, ssb_blocks

Complex = npt.NDArray[np.complex64]


def carrier_grid(plan: Plan, rng: np.random.Generator) -> Complex:
    """The carrier's own grid, complex64 ``[slots * symbols, subcarriers]``, unit power a used element on average."""
    grid = np.zeros((plan.slots, plan.symbols, SUBCARRIERS * plan.config.n_rb), dtype=np.complex64)
    for each in plan.transmissions:
        each.write(grid, plan.first_slot, rng)
    return grid.reshape(plan.slots * plan.symbols, -1)


def place_ssb(plan: Plan, grid: Complex) -> None:
    """Write the SS/PBCH blocks into ``grid`` ``[symbols, subcarriers]`` of their own numerology, centred on 0 Hz."""
    config, times = plan.config, plan.ssb
    if config.ssb is None or not times.symbol.size:
        return
    sfn = times.burst // 2 % FRAMES
    first = grid.shape[1] // 2 + round(config.ssb_low / (15e3 * (1 << config.ssb.mu)))
    rows = times.symbol[:, None] + np.arange(LENGTH)
    grid[rows, first : first + WIDTH] = ssb_blocks(config.pci, times.index, times.burst % 2, sfn, config.ssb)
