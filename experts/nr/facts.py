"""What is known about a capture."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experts.nr.carrier import FRAMES
from experts.nr.config import Uplink, User
from experts.nr.downlink import PDSCH
from experts.nr.downlink_air import SharedDownlink
from experts.nr.plan import Plan
from experts.nr.transmission import Placement
from experts.nr.uplink_air import SharedUplink
from lwm.signal.capture import Emission

COUNTS = ("pdcch_count", "csi_rs_count", "srs_count", "pucch_count", "prach_count")
"""Signals and resources, 0 for those of the other link."""
PAYLOAD = {"symbols": "random symbols", "coded": "coded"}


def facts(plan: Plan, boxes: list[Emission]) -> dict[str, Any]:
    """JSON-able facts; UEs, resources and slots are counted where they are on the air inside the capture."""
    config, carrier = plan.config, plan.config.carrier
    users = _users(plan, boxes)
    modulations = {user["modulation"] for user in users}
    common = modulations.pop() if len(modulations) == 1 else "mixed" if modulations else "none"
    return {
        "technology": "5G NR",
        "link": config.link,
        "frequency_range": carrier.frequency_range,
        "bandwidth": carrier.bandwidth,
        "subcarrier_spacing": carrier.scs,
        "cp": "extended" if carrier.extended_cp else "normal",
        "pci": carrier.pci,
        "n_rb": carrier.n_rb,
        "duplex": "FDD" if carrier.tdd is None else "TDD",
        "tdd_pattern": None if carrier.tdd is None else carrier.tdd.text,
        "special_slot": None if carrier.tdd is None else list(carrier.tdd.special),
        **_ssb_facts(plan),
        "number_of_ues": _count_ues(plan, boxes),
        "users": users,
        "modulation": common,
        "control_symbols": config.head,
        "ptrs_count": sum(user["ptrs"] for user in users),
        **dict.fromkeys(COUNTS, 0),
        **(_downlink_facts(plan, boxes) if config.uplink is None else _uplink_facts(config.uplink, boxes)),
        "start": config.start,
        "duty_cycle": plan.duty_cycle,
        "payload": PAYLOAD[config.payload],
    }


def _of(boxes: Iterable[Emission], channel: str) -> list[Emission]:
    return [box for box in boxes if box.attributes["channel"] == channel]


def _resources(boxes: Iterable[Emission], channel: str) -> list[int]:
    """Numbers of the resources of a channel that are heard, ascending."""
    return sorted({box.attributes["resource"] for box in _of(boxes, channel)})


def _count_ues(plan: Plan, boxes: list[Emission]) -> int:
    """UEs that are scheduled (downlink) or transmit (uplink) inside the capture.

    In the uplink those with PUSCH, then every other RNTI with PUCCH, then the sender of PRACH, who has no RNTI yet.
    SRS carry no RNTI: they are of those UEs, or of one more where there is none.
    """
    config = plan.config
    users = {box.attributes["ue"] for box in boxes if "ue" in box.attributes}
    if config.uplink is None:
        return len(users)
    reports = {config.uplink.reports[number].pucch.rnti for number in _resources(boxes, "PUCCH")}
    count = len(users) + len(reports - {config.users[number].shared.rnti for number in users})
    count += bool(_of(boxes, "PRACH"))
    return count or int(bool(_of(boxes, "SRS")))


def _slots(plan: Plan, parts: Sequence[Placement]) -> int:
    """Slots of placements that the capture sees a sample of."""
    edges, heard = plan.carrier_edges, set()
    for part in parts:
        start, stop = (edges[part.slots * plan.symbols + symbol] for symbol in part.symbols)
        heard |= set(part.slots[(start < plan.crop.stop) & (stop > plan.crop.start)].tolist())
    return len(heard)


def _users(plan: Plan, boxes: list[Emission]) -> list[dict[str, Any]]:
    """Of each UE whose shared channel is heard."""
    known = []
    for number in sorted({box.attributes["ue"] for box in boxes if "ue" in box.attributes}):
        mine = [part for part in plan.placements if part.owner == number and part.channel in ("PDSCH", "PUSCH")]
        own = _user_facts(number, plan.config.users[number]) | {"slots": _slots(plan, mine)}
        if plan.config.payload == "coded":
            sent = [each for each in plan.transmissions if isinstance(each, SharedDownlink | SharedUplink)]
            # What SSB and CSI-RS take from a slot makes its transport block smaller.
            own["transport_block_bits"] = sorted({each.block_size for each in sent if each.owner == number})
            own["code_rate"] = plan.config.users[number].code_rate / 1024
        known.append(own)
    return known


def _user_facts(number: int, user: User) -> dict[str, Any]:
    shared = user.shared
    known: dict[str, Any] = {
        "ue": number,
        "rnti": shared.rnti,
        "prb_start": user.prb_start,
        "prb_count": user.prb_count,
        "modulation": user.modulation,
        "symbols": shared.symbols[1] if isinstance(shared, PDSCH) else shared.symbols[1] - shared.symbols[0],
        "dmrs_type": shared.dmrs.type,
        "dmrs_additional": shared.dmrs.additional,
        "ptrs": shared.ptrs is not None,
    }
    if isinstance(shared, PDSCH):
        return known | {"layers": shared.layers, "interleaved": bool(shared.interleaver)}
    return known | {"waveform": "DFT-s-OFDM" if shared.transform_precoding else "CP-OFDM", "hopping": shared.hopping}


def _downlink_facts(plan: Plan, boxes: list[Emission]) -> dict[str, Any]:
    """PDCCH and CSI-RS that are heard."""
    control = [part for part in plan.placements if part.channel == "PDCCH"]
    heard = [plan.config.csi_rs[number] for number in _resources(boxes, "CSI-RS")]
    return {
        "pdcch_count": sum(_slots(plan, [part]) for part in control),
        "csi_rs_count": len(heard),
        "csi_rs": [
            {
                "row": each.row,
                "ports": each.ports,
                "density": each.density,
                "period": each.period,
                "symbol": each.symbol,
            }
            for each in heard
        ],
    }


def _uplink_facts(uplink: Uplink, boxes: list[Emission]) -> dict[str, Any]:
    """SRS, PUCCH and PRACH that are heard."""
    sounding = [uplink.srs[number] for number in _resources(boxes, "SRS")]
    reports = [uplink.reports[number] for number in _resources(boxes, "PUCCH")]
    access = len(_of(boxes, "PRACH"))
    known: dict[str, Any] = {
        "srs_count": len(sounding),
        "srs": [
            {"comb": each.comb[0], "symbols": each.symbols, "period": each.period[0], "prb_count": each.resource_blocks}
            for each in sounding
        ],
        "pucch_count": len(reports),
        "pucch_formats": [each.pucch.format for each in reports],
        "prach_count": access,
    }
    if access and uplink.prach is not None:
        prach = uplink.prach
        known |= {"prach_format": prach.format, "prach_scs_khz": prach.scs, "prach_preamble": prach.preamble}
    return known


def _ssb_facts(plan: Plan) -> dict[str, Any]:
    """Of the SS/PBCH blocks: ``ssb_count`` a burst, ``ssb_heard`` inside the capture, and their MIB.

    ``mib`` says the system frame number of the first block that is heard, or of the capture's first frame.
    """
    ssb, spans = plan.config.ssb, plan.ssb_spans
    if ssb is None:
        return {"ssb_case": None, "ssb_count": 0, "ssb_heard": 0}
    heard = np.flatnonzero((spans[:, 1] > plan.crop.start) & (spans[:, 0] < plan.crop.stop))
    frame = int(plan.ssb.burst[heard].min()) // 2 if heard.size else plan.first_ms // 10
    return {
        "ssb_case": ssb.case,
        "ssb_scs_khz": 15 << ssb.mu,
        "ssb_count": ssb.bitmap.count("1"),
        "ssb_heard": heard.size,
        "ssb_bitmap": ssb.bitmap,
        "ssb_period_ms": ssb.period_ms,
        "ssb_low_hz": plan.config.ssb_low,
        "mib": ssb.mib.facts(frame % FRAMES, ssb.k_ssb),
    }


def describe(known: dict[str, Any]) -> list[str]:
    """Short English sentences for captions from the :func:`facts` of a capture."""
    duplex = f"TDD with slot pattern {known['tdd_pattern']}" if known["duplex"] == "TDD" else "FDD"
    ues, link = known["number_of_ues"], known["link"]
    one, many = ("is scheduled", "are scheduled") if link == "downlink" else ("transmits", "transmit")
    lines = [
        f"The carrier is 5G NR with a {known['bandwidth'] / 1e6:g} MHz channel and "
        f"{known['subcarrier_spacing'] / 1e3:g} kHz subcarrier spacing.",
        f"The capture holds the {link} of a carrier in {known['frequency_range']}.",
        f"The carrier has {known['n_rb']} resource blocks and a {known['cp']} cyclic prefix.",
        f"The duplex mode is {duplex}.",
        *(_describe_downlink(known) if link == "downlink" else _describe_uplink(known)),
        f"{ues} UE{f' {one}' if ues == 1 else f's {many}'} on the {link}.",
    ]
    for user in known["users"]:
        rate = f" at code rate {user['code_rate']:.2f}" if "code_rate" in user else ""
        last = user["prb_start"] + user["prb_count"] - 1
        kind = "virtual resource" if user.get("interleaved") else "resource"
        lines.append(
            f"UE {user['ue'] + 1} holds {kind} blocks {user['prb_start']} to {last} with {user['modulation']}{rate}."
        )
    lines.append(f"The transmitter is on the air for {100 * known['duty_cycle']:.0f} percent of the time.")
    return lines


def _many(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _describe_downlink(known: dict[str, Any]) -> list[str]:
    ssb = "The carrier has no SSB."
    if known["ssb_case"]:
        blocks = _many(known["ssb_count"], "block")
        ssb = f"The SSB pattern is case {known['ssb_case']} with {blocks} every {known['ssb_period_ms']} ms."
    return [
        ssb,
        f"The physical cell identity is {known['pci']}.",
        f"The capture has {_many(known['csi_rs_count'], 'CSI-RS resource')} and {known['pdcch_count'] or 'no'} PDCCH.",
    ]


def _describe_uplink(known: dict[str, Any]) -> list[str]:
    access = _many(known["prach_count"], "PRACH preamble")
    if known["prach_count"]:
        access += f" of format {known['prach_format']}"
    sounding, reports = _many(known["srs_count"], "SRS resource"), _many(known["pucch_count"], "PUCCH resource")
    return [
        f"The physical cell identity is {known['pci']}.",
        f"The capture has {sounding}, {reports} and {access}.",
    ]
