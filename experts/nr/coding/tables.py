"""MCS tables and transport block sizes: TS 38.214, 5.1.3 and 6.1.4."""

from math import ceil, floor, log2

import numpy as np

from lwm.errors import RejectedConfig

# Per table the modulation order and, times 1024, the code rates of consecutive MCS indices.
_QPSK = (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)
_64QAM_RATES = (466, 517, 567, 616, 666, 719, 772, 822, 873)
_256QAM_RATES = (682.5, 711, 754, 797, 841, 885, 916.5, 948)
_LOW_QPSK = (30, 40, 50, 64, 78, 99, 120, 157, 193, 251, 308, 379, 449, 526, 602)
_MCS: dict[str, tuple[tuple[int, tuple[float, ...]], ...]] = {
    "64QAM": ((2, _QPSK), (4, (340, 378, 434, 490, 553, 616, 658)), (6, (438, *_64QAM_RATES, 910, 948))),
    "256QAM": (
        (2, (120, 193, 308, 449, 602)),
        (4, (378, 434, 490, 553, 616, 658)),
        (6, _64QAM_RATES),
        (8, _256QAM_RATES),
    ),
    "64QAM-lowSE": (
        (2, _LOW_QPSK),
        (4, (340, 378, 434, 490, 553, 616)),
        (6, (438, 466, 517, 567, 616, 666, 719, 772)),
    ),
    "1024QAM": (
        (2, (120, 193, 449)),
        (4, (378, 490, 616)),
        (6, _64QAM_RATES),
        (8, _256QAM_RATES),
        (10, (805.5, 853, 900.5, 948)),
    ),
    "64QAM-transform-precoding": (
        (1, (240, 314)),
        (2, (193, 251, 308, 379, 449, 526, 602, 679)),
        (4, (340, 378, 434, 490, 553, 616, 658)),
        (6, (466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    ),
    "64QAM-lowSE-transform-precoding": (
        (1, (60, 80, 100, 128, 156, 198)),
        (2, (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
        (4, (378, 434, 490, 553, 616, 658, 699, 772)),
        (6, (567, 616, 666, 772)),
    ),
}
MCS_TABLES = tuple(_MCS)
"""38.214 tables 5.1.3.1-1, -2, -3, -4 (6.1.4 uses them too for CP-OFDM), 6.1.4.1-1 and 6.1.4.1-2."""

TBS_TABLE = (
    *range(24, 193, 8), *range(208, 385, 16), *range(408, 457, 24), *range(480, 553, 24), *range(576, 769, 32),
    *range(808, 929, 40), 984, 1032, 1064, *range(1128, 1353, 32), *range(1416, 1929, 64), *range(2024, 2281, 64),
    *range(2408, 2857, 64), 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824,
)  # fmt: skip
"""Transport block sizes up to 3824 bits (table 5.1.3.2-1)."""

_LBRM_PRBS = (32, 66, 107, 135, 162, 217, 273)
"""n_PRB,LBRM (38.212 table 5.4.2.1-1)."""


def mcs_entry(index: int, table: str, pi2_bpsk: bool = False) -> tuple[int, float]:
    """Modulation order and code rate of an MCS.

    Args:
        index: I_MCS.
        table: one of `MCS_TABLES`.
        pi2_bpsk: whether tp-pi2BPSK is configured: q is 1 instead of 2 in the tables for transform precoding.

    Returns:
        Q_m and R.

    Raises:
        RejectedConfig: an unknown table or a reserved index.
    """
    if table not in _MCS:
        raise RejectedConfig(
            f"MCS table {table!r}", f"one of {', '.join(MCS_TABLES)} (TS 38.214 5.1.3.1, 6.1.4.1)", "pick one of them"
        )
    entries = [(order, rate / 1024) for order, rates in _MCS[table] for rate in rates]
    if not 0 <= index < len(entries):
        raise RejectedConfig(
            f"MCS index {index} of table {table}", f"0 to {len(entries) - 1} (TS 38.214 5.1.3.1, 6.1.4.1)", "lower it"
        )
    order, rate = entries[index]
    if order == 1 and not pi2_bpsk:
        return 2, rate / 2
    return order, rate


def data_resource_elements(prbs: int, symbols: int, dmrs_per_prb: int, overhead: int = 0) -> int:
    """N_RE of an allocation (38.214 5.1.3.2, 6.1.4.2).

    Args:
        prbs: n_PRB, allocated resource blocks.
        symbols: allocated symbols of the slot.
        dmrs_per_prb: N_DMRS, resource elements a resource block gives up to DM-RS CDM groups without data.
        overhead: N_oh from xOverhead: 0, 6, 12 or 18.
    """
    return min(156, 12 * symbols - dmrs_per_prb - overhead) * prbs


def transport_block_size(n_re: int, code_rate: float, modulation_order: int, layers: int = 1) -> int:
    """Transport block size (38.214 5.1.3.2).

    Args:
        n_re: N_RE, resource elements that count (`data_resource_elements`).
        code_rate: R.
        modulation_order: Q_m.
        layers: v.

    Returns:
        Bits.

    Raises:
        RejectedConfig: nothing to send, or a rate outside (0, 1).
    """
    information = n_re * code_rate * modulation_order * layers
    if information <= 0 or not 0 < code_rate < 1:
        raise RejectedConfig(
            f"{n_re} resource elements at rate {code_rate}", "more than 0 and 0 < R < 1 (TS 38.214 5.1.3.2)",
            "allocate resource elements and take the rate from mcs_entry",
        )  # fmt: skip
    if information <= 3824:
        step = 2 ** max(3, floor(log2(information)) - 6)
        quantised = max(24, step * floor(information / step))
        return TBS_TABLE[int(np.searchsorted(TBS_TABLE, quantised))]
    step = 2 ** (floor(log2(information - 24)) - 5)
    # The standard breaks ties of the rounding upwards.
    total = max(3840, step * floor((information - 24) / step + 0.5)) + 24
    most = 3816 if code_rate <= 0.25 else 8424
    blocks = 1 if code_rate > 0.25 and total - 24 <= most else ceil(total / most)
    return 8 * blocks * ceil(total / (8 * blocks)) - 24


def lbrm_transport_block_size(bandwidth_prbs: int, layers: int, modulation_order: int) -> int:
    """TBS_LBRM, the reference size of limited-buffer rate matching (38.212 5.4.2.1).

    Args:
        bandwidth_prbs: largest number of resource blocks over the configured bandwidth parts of the carrier.
        layers: largest number of layers of a transport block, at most 4 counted.
        modulation_order: 6, 8 or 10, the highest that the configured MCS table holds.
    """
    prbs = next((size for size in _LBRM_PRBS if bandwidth_prbs <= size), _LBRM_PRBS[-1])
    return transport_block_size(156 * prbs, 948 / 1024, modulation_order, min(layers, 4))
