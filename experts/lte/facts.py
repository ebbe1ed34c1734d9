"""What is known about a synthesised LTE capture: facts, emissions, and sentences for captions."""

from typing import Any

import numpy as np
import numpy.typing as npt

from experts.lte.config import MODULATIONS, LTEConfig, on_air
from experts.lte.frame import SUBCARRIER_SPACING, SUBFRAMES, UPLINK_DOWNLINK, control_symbols, symbol_edges
from experts.lte.grid import Grid
from lwm.signal.capture import Emission


def bursts(config: LTEConfig) -> npt.NDArray[np.int64]:
    """First sample and end of every contiguous downlink transmission inside the capture, int64 ``[bursts, 2]``."""
    numbers = config.subframes()
    edges = symbol_edges(config.n_fft, config.extended_cp)
    down = config.downlink()[numbers % SUBFRAMES].ravel()
    change = np.diff(np.concatenate([[0], down.astype(np.int8), [0]]))
    borders = np.append((numbers[:, None] * edges[-1] + edges[:-1]).ravel(), (numbers[-1] + 1) * edges[-1])
    found = np.stack([borders[change[: len(borders)] == 1], borders[change[: len(borders)] == -1]], axis=1)
    found = np.clip(found - config.first_sample, 0, config.samples)
    return found[found[:, 1] > found[:, 0]]


def occupied(config: LTEConfig) -> float:
    """Upper edge in Hz of the occupied band: N_RB blocks of 180 kHz about 0 Hz and the carrier left free there."""
    return (6 * config.resource_blocks + 0.5) * SUBCARRIER_SPACING


def _shares(
    config: LTEConfig, grid: Grid, numbers: npt.NDArray[np.int64], first: int, stop: int
) -> tuple[dict[str, float], float, float]:
    """Block-time of each modulation (dominant first), load and PDSCH share in samples ``first`` to ``stop``."""
    edges = symbol_edges(config.n_fft, config.extended_cp)
    begin = np.clip(numbers[:, None] * edges[-1] + edges[:-1] - config.first_sample, first, stop)
    end = np.clip(numbers[:, None] * edges[-1] + edges[1:] - config.first_sample, first, stop)
    of_frame = numbers % SUBFRAMES
    heard = (end - begin) * config.downlink()[of_frame]
    able = (heard * config.data_symbols()[of_frame]).sum(axis=1)
    blocks = {
        name: float(np.count_nonzero(grid.modulation == 1 + code, axis=1) @ able)
        for code, name in enumerate(MODULATIONS)
    }
    ordered = dict(sorted(((k, v) for k, v in blocks.items() if v), key=lambda pair: -pair[1]))
    load = sum(ordered.values()) / max(1.0, float(able.sum() * config.resource_blocks))
    share = float((heard * grid.data_elements).sum()) / max(1.0, float(heard.sum() * 12 * config.resource_blocks))
    return ordered, load, share


def emissions(config: LTEConfig, grid: Grid) -> list[Emission]:
    """One emission a downlink burst: exact time, occupied band, dominant PDSCH modulation, attributes."""
    numbers = config.subframes()
    edge = occupied(config)
    found = []
    for first, stop in bursts(config):
        modulations, load, share = _shares(config, grid, numbers, int(first), int(stop))
        attributes = {
            "n_rb": config.resource_blocks,
            "pci": config.pci,
            "duplex": config.duplex,
            "bandwidth": config.bandwidth,
            "modulations": list(modulations),
            "prb_load": round(load, 4),
            "pdsch_share": round(share, 4),
        }
        found.append(
            Emission(
                technology="LTE",
                link="downlink",
                modulation=next(iter(modulations), ""),
                start=int(first) / config.sample_rate,
                stop=int(stop) / config.sample_rate,
                low=-edge,
                high=edge,
                attributes=attributes,
            )
        )
    return found


def facts(config: LTEConfig, grid: Grid) -> dict[str, Any]:
    """Plain dict of everything a caption can say about the capture."""
    numbers = config.subframes()
    modulations, load, share = _shares(config, grid, numbers, 0, config.samples)
    loaded = grid.modulation.any(axis=1)
    total = sum(modulations.values())
    found: dict[str, Any] = {
        "technology": "LTE",
        "link": "downlink",
        "standard": "3GPP TS 36.211",
        "duplex": config.duplex,
        "frame_structure_type": 1 if config.tdd is None else 2,
        "bandwidth": config.bandwidth,
        "n_rb": config.resource_blocks,
        "occupied_bandwidth": 2 * occupied(config),
        "subcarrier_spacing": SUBCARRIER_SPACING,
        "pci": config.pci,
        "sfn": config.sfn,
        "cyclic_prefix": "extended" if config.extended_cp else "normal",
        "antenna_ports": 1,
        "cfi": config.cfi,
        "control_symbols": control_symbols(config.resource_blocks, config.cfi, config.tdd is not None)[0],
        "control_load": round(config.control_load, 4),
        "pdsch_power_db": config.pdsch_power,
        "modulation": next(iter(modulations), ""),
        "modulations": {name: round(value / total, 4) for name, value in modulations.items()},
        "prb_load": round(load, 4),
        "pdsch_share": round(share, 4),
        "activity": round(float(on_air(config, numbers).sum()) / config.samples, 4),
        "subframes": [int(number) % SUBFRAMES for number in numbers],
        "loaded_subframes": [int(number) % SUBFRAMES for number in numbers[loaded]],
        "frame_offset": config.first_sample / config.sample_rate,
        "payload": "random symbols",
        "pbch": "master information block",
        "pdcch": "random QPSK symbols",
    }
    if config.tdd is not None:
        kinds = UPLINK_DOWNLINK[config.tdd.configuration]
        found["uplink_downlink_configuration"] = config.tdd.configuration
        found["special_subframe_configuration"] = config.tdd.special_subframe
        found["frame_pattern"] = kinds
        found["dwpts_symbols"] = int(config.downlink()[1].sum())
    return found


def describe(facts: dict[str, Any]) -> list[str]:
    """Short English sentences of ``facts``, each true and complete on its own."""
    duplex = {"FDD": "frequency division duplex", "TDD": "time division duplex"}[facts["duplex"]]
    sentences = [
        f"The carrier is LTE with a {facts['bandwidth'] / 1e6:g} MHz channel ({facts['n_rb']} resource blocks), "
        f"{duplex}.",
        "It is a downlink: OFDM with 15 kHz subcarrier spacing and the "
        f"{facts['cyclic_prefix']} cyclic prefix, one antenna port.",
        f"It occupies {facts['occupied_bandwidth'] / 1e6:.2f} MHz.",
        f"The physical cell identity is {facts['pci']}.",
    ]
    if facts["duplex"] == "TDD":
        sentences.append(
            f"The uplink-downlink configuration is {facts['uplink_downlink_configuration']} "
            f"({facts['frame_pattern']}), special subframe configuration {facts['special_subframe_configuration']}; "
            f"the base station is on the air {100 * facts['activity']:.0f} % of the time."
        )
    else:
        sentences.append("The base station is on the air all the time, with reference signals in every subframe.")
    control = facts["control_symbols"]
    span = "symbol" if control == 1 else f"{control} symbols"
    most = "most downlink subframes" if facts["duplex"] == "TDD" else "each subframe"
    sentences.append(f"The control region takes the first OFDM {span} of {most}.")
    names = list(facts["modulations"])
    if not names:
        return [*sentences, "No user data is scheduled."]
    kind = f"is modulated with {names[0]}" if len(names) == 1 else f"mixes {', '.join(names)}, mostly {names[0]}"
    sentences.append(f"The shared channel (PDSCH) {kind}.")
    sentences.append(
        f"{len(facts['loaded_subframes'])} of the {len(facts['subframes'])} subframes seen carry user data; "
        f"{100 * facts['prb_load']:.0f} % of the schedulable resource blocks are in use."
    )
    return sentences
