"""Legality of a whole configuration."""

import math

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import FRAMES
from experts.nr.config import MOST_RESOURCES, MOST_USERS, PAYLOADS, NRConfig, User
from experts.nr.downlink import CSIRS, PDSCH, validate_pdsch
from experts.nr.downlink.dmrs import dmrs_symbols
from experts.nr.downlink_air import SharedDownlink, cell_of, clipped, csi_rs_area, csi_rs_slots, user_control
from experts.nr.payload import require_decodable
from experts.nr.plan import Plan
from experts.nr.random_access import prach_blocks
from experts.nr.ssb_validation import validate_ssb
from experts.nr.uplink import PUSCH
from experts.nr.uplink_air import SharedUplink, fitting_slots, uplink_carrier
from experts.nr.window import Bools, Ints, Window
from lwm.errors import RejectedConfig

MIN_SHORT_SCS = 15.0
"""kHz; long PRACH formats have less."""
FIRST_DMRS = 2
"""l_0 of dmrs-TypeA-Position pos2."""
MINIMUM_SYMBOLS = 3
"""Shortest PDSCH of mapping type A, TS 38.214 table 5.1.2.1-1."""
LAST_START = 10e-3 * FRAMES
"""s after which the system frame number restarts."""


def least_symbols(head: int) -> int:
    """Downlink symbols that a slot needs for PDSCH of mapping type A after ``head`` PDCCH symbols."""
    return max(FIRST_DMRS + 1, head + MINIMUM_SYMBOLS)


def pilot_symbols(window: Window) -> set[int]:
    """Symbols of the CORESET and of the DM-RS of the UEs' PDSCH, in any slot of the window they are scheduled in."""
    kinds = set()
    for user in window.config.users:
        shared = user.shared
        assert isinstance(shared, PDSCH)
        first, count = shared.symbols
        stops = set(window.stop[window.scheduled(user)].tolist())
        kinds |= {(shared.dmrs, shared.mapping, (first, min(count, stop - first))) for stop in stops}
    return {symbol for kind in kinds for symbol in dmrs_symbols(*kind)} | set(range(window.config.head))


def _validate_window(config: NRConfig) -> None:
    if not (math.isfinite(config.start) and 0 <= config.start < LAST_START):
        raise RejectedConfig(
            f"start {config.start} s (TS 38.211 clause 4.3.1)", f"0 to {LAST_START:g} s, {FRAMES} frames"
        )
    if not (math.isfinite(config.duration) and config.samples >= 1):
        raise RejectedConfig(f"duration {config.duration} s", f"at least one sample of {config.sample_rate:g} Hz")


def _validate_users(config: NRConfig, window: Window) -> None:
    """Raise RejectedConfig for a UE whose channel, run or slot is not legal, or who meets another."""
    for number, user in enumerate(config.users):
        kind = PDSCH if config.uplink is None else PUSCH
        if not isinstance(user.shared, kind):
            raise RejectedConfig(f"user {number} with {type(user.shared).__name__} in the {config.link}", kind.__name__)
        if not user.runs or any(first < 0 or count < 1 for first, count in user.runs):
            raise RejectedConfig(
                f"slot runs {user.runs} of PRB {user.prb_start} to {user.prb_stop - 1}",
                f"(first slot >= 0, slots >= 1) of {config.carrier.symbols} symbols each",
            )
        if isinstance(user.shared, PDSCH):
            _validate_pdsch_user(window, number, user, user.shared)
        else:
            user.shared.validate(uplink_carrier(window))
            legal = fitting_slots(window, user.shared.symbols)
            _require_slots(window, number, user, legal, f"symbols {user.shared.symbols} (TS 38.213 clause 11.1)")


def _validate_pdsch_user(window: Window, number: int, user: User, shared: PDSCH) -> None:
    config = window.config
    cell = cell_of(window)
    validate_pdsch(shared, cell)
    if config.head and user_control(cell.n_rb, user, config.head) is None:
        raise RejectedConfig(
            f"PRB {user.prb_start} to {user.prb_stop - 1} with {config.head} CORESET symbols (TS 38.213 clause 10.1)",
            "room for a CORESET: 6 resource blocks from a multiple of 6",
            "use another range or control None",
        )
    if shared.symbols[0] < config.head:
        raise RejectedConfig(
            f"PDSCH from symbol {shared.symbols[0]} with {config.head} CORESET symbols (TS 38.214 clause 5.1.4)",
            f"{config.head} or later",
        )
    least = least_symbols(config.head)
    legal = np.flatnonzero(window.available >= least)
    what = f"at least {least} downlink symbols (TS 38.214 table 5.1.2.1-1, mapping type A)"
    _require_slots(window, number, user, legal, what)
    for stop in np.unique(window.stop[window.scheduled(user)]).tolist():
        validate_pdsch(clipped(shared, stop), cell)


def _require_slots(window: Window, number: int, user: User, legal: Ints, wanted: str) -> None:
    wrong = np.setdiff1d(window.scheduled(user), legal)
    if wrong.size:
        slot = int(wrong[0])
        nearest = "none in this capture"
        if legal.size:
            nearest = f"slot {int(legal[np.argmin(np.abs(legal - slot))]) + window.first_slot}"
        raise RejectedConfig(
            f"user {number} in slot {slot + window.first_slot} with {window.available[slot]} "
            f"{window.config.link} symbols",
            wanted,
            f"nearest is {nearest}",
        )


def _validate_overlap(config: NRConfig, plan: Plan) -> None:
    """Raise RejectedConfig where the shared channel of a UE meets that of another, or PUCCH or SRS."""
    shared = "PDSCH" if config.uplink is None else "PUSCH"
    taken = np.full((plan.slots, plan.symbols, config.n_rb), -1, dtype=np.int16)
    for part in plan.placements:
        if part.channel not in (shared, "PUCCH", "SRS"):
            continue
        area = (part.slots, slice(*part.symbols), slice(*part.blocks))
        others = taken[area]
        if part.channel == shared and (others >= 0).any():
            raise RejectedConfig(
                f"users {int(others[others >= 0][0])} and {part.owner} share resource blocks "
                "(TS 38.214 clause 5.1.2.2)",
                "one user a resource block and slot: spatial multiplexing is not modelled",
                "separate their PRBs or slots",
            )
        if part.channel != shared and (others >= 0).any():
            raise RejectedConfig(
                f"{part.channel} {part.owner} on PUSCH of user {int(others[others >= 0][0])} "
                "(TS 38.214 clause 6.2.1, 38.213 clause 9.2)",
                "resource elements of its own",
                "end the PUSCH earlier or leave those resource blocks free",
            )
        if part.channel == shared:
            taken[area] = part.owner
    _validate_prach_overlap(config, plan, taken)


def _validate_prach_overlap(config: NRConfig, plan: Plan, taken: npt.NDArray[np.int16]) -> None:
    """Raise RejectedConfig where a UE's PUSCH lies on a preamble."""
    if config.uplink is None or config.uplink.prach is None:
        return
    blocks = prach_blocks(plan, config.uplink.prach)
    edges = plan.carrier_edges
    rows = taken.reshape(-1, config.n_rb)
    for signal in plan.preambles:
        low = max(0, int(np.searchsorted(edges, signal.first, side="right")) - 1)
        high = int(np.searchsorted(edges, signal.first + signal.samples.size, side="left"))
        if (rows[low:high, slice(*blocks)] >= 0).any():
            raise RejectedConfig(
                f"PUSCH on PRACH in resource blocks {blocks[0]} to {blocks[1] - 1} (TS 38.213 clause 8.1)",
                "resource blocks of its own",
                "move the PUSCH or prach.prb",
            )


def _validate_resources(config: NRConfig, window: Window) -> None:
    uplink = config.uplink
    counts = {"CSI-RS resources": len(config.csi_rs)}
    if uplink is not None:
        counts |= {"SRS resources": len(uplink.srs), "PUCCH reports": len(uplink.reports)}
    for what, count in counts.items():
        if count > MOST_RESOURCES:
            raise RejectedConfig(f"{count} {what}", f"0 to {MOST_RESOURCES}", f"nearest is {MOST_RESOURCES}")
    if uplink is None:
        validate_csi_rs(window)
        return
    if config.ssb is not None or config.csi_rs:
        raise RejectedConfig(
            "SS/PBCH blocks or CSI-RS in an uplink capture (TS 38.211 clause 7)", "ssb None and csi_rs ()"
        )
    carrier = uplink_carrier(window)
    if uplink.prach is not None:
        uplink.prach.validate(carrier)
        if window.config.carrier.extended_cp and uplink.prach.scs >= MIN_SHORT_SCS:
            raise RejectedConfig(
                "PRACH of a short format beside an extended cyclic prefix (TS 38.211 clause 5.3.2)", "a long format"
            )
    for resource in uplink.srs:
        resource.validate(carrier)
    for report in uplink.reports:
        report.pucch.validate(carrier)
        if not 0 <= report.period[1] < report.period[0]:
            raise RejectedConfig(
                f"PUCCH period {report.period} (TS 38.331 CSI-ReportPeriodicityAndOffset)", "an offset below the period"
            )


def validate_csi_rs(window: Window) -> None:
    """Raise RejectedConfig for an illegal CSI-RS resource, or one that meets another, a CORESET or a PDSCH's DM-RS."""
    config = window.config
    if not config.csi_rs:
        return
    cell = cell_of(window)
    taken: list[tuple[Ints, Bools]] = []
    pilots = pilot_symbols(window)
    for number, resource in enumerate(config.csi_rs):
        resource.validate(cell)
        if csi_rs_meets(window, resource, pilots, taken):
            raise RejectedConfig(
                f"CSI-RS {number} in symbols {list(csi_rs_area(cell, resource).symbols)} on DM-RS, CORESET or another "
                "CSI-RS (TS 38.211 clauses 7.4.1.5.3 and 7.4.1.1)",
                f"symbols other than {sorted(pilots)} and elements of its own",
                "move symbol, bitmap or offset",
            )
        taken.append((csi_rs_slots(window, resource), csi_rs_area(cell, resource).mask))


def csi_rs_meets(window: Window, resource: CSIRS, pilots: set[int], taken: list[tuple[Ints, Bools]]) -> bool:
    """Whether a CSI-RS resource lies in a symbol of ``pilots`` or on elements that another one has taken.

    Args:
        window: slots of the capture.
        resource: legal by its own ``validate``.
        pilots: symbols of PDSCH DM-RS and of the CORESET.
        taken: slots and elements ``[symbols, subcarriers]`` of the resources before it.
    """
    area = csi_rs_area(cell_of(window), resource)
    if pilots.intersection(area.symbols):
        return True
    slots = csi_rs_slots(window, resource)
    return any(np.isin(slots, others).any() and (mask & area.mask).any() for others, mask in taken)


def _validate_blocks(plan: Plan) -> None:
    """Raise RejectedConfig for a code rate that is none, or with which a transport block does not fit its slot."""
    for part in plan.transmissions:
        if isinstance(part, SharedDownlink | SharedUplink) and part.code_rate is not None:
            size = part.block_size
            assert size is not None
            require_decodable(size, part.capacity, part.code_rate)


def validate(config: NRConfig) -> Plan:
    """The plan of a legal configuration.

    Raises:
        RejectedConfig: a clause is broken, or nothing is on the air inside the capture.
    """
    config.carrier.validate()
    _validate_window(config)
    if config.payload not in PAYLOADS:
        raise RejectedConfig(f"payload {config.payload!r}", f"one of {list(PAYLOADS)}")
    if config.ssb is not None and config.uplink is None:
        validate_ssb(config, config.ssb)
    if config.head not in (0, 1, 2):
        raise RejectedConfig(
            f"{config.head} CORESET symbols (TS 38.211 clause 7.3.2.2, DM-RS in symbol 2)", "0, 1 or 2"
        )
    if len(config.users) > MOST_USERS:
        raise RejectedConfig(f"{len(config.users)} UEs", f"0 to {MOST_USERS}", f"nearest is {MOST_USERS}")
    plan = Plan(config)
    _validate_users(config, plan)
    _validate_resources(config, plan)
    _validate_overlap(config, plan)
    _validate_blocks(plan)
    if plan.on_air_samples == 0:
        raise RejectedConfig(
            f"nothing on the air from {config.start * 1e3:g} ms for {config.duration * 1e3:g} ms",
            "an SS/PBCH block or a scheduled slot in the capture",
            "schedule a user or move the start",
        )
    return plan
