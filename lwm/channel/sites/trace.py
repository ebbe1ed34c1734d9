"""Ray tracing a site: one transmitter on a roof, receivers on the streets, every path between them."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.channel.limits import require_between, require_number
from lwm.channel.sites.table import MAX_DELAY_S, SiteTable
from lwm.channel.sites.tracer import (
    CELL_M,
    TERMINAL_M,
    require_tracer,
    scene_file,
    shipped_name,
    stand_receivers,
    stand_transmitter,
)
from lwm.console import progress, say
from lwm.errors import ConfigError
from lwm.output import require_empty
from lwm.seeding import rng_for

OPENSTREETMAP_SCENES = ("etoile", "florence", "munich", "san_francisco")
"""Scenes of Sionna RT that it says were made from OpenStreetMap."""

OPENSTREETMAP_TERMS = {
    "attribution": "Contains information from OpenStreetMap (https://www.openstreetmap.org/copyright), "
    "(c) OpenStreetMap contributors, made available here under the Open Database License (ODbL) 1.0",
    "licence": "ODbL-1.0, https://opendatacommons.org/licenses/odbl/1-0/",
}
SIONNA_TERMS = {
    "attribution": "Scene of Sionna RT, (c) NVIDIA CORPORATION & AFFILIATES, ray-traced with it",
    "licence": "Apache-2.0",
}
OWN_TERMS = {
    "attribution": "that of the scene's authors; ray-traced with Sionna RT, (c) NVIDIA CORPORATION & AFFILIATES",
    "licence": "the scene's own terms: it is none that Sionna RT ships",
}

MAX_RECEIVERS_ASKED = 100_000
"""Most receivers in one run (ours): some hours."""

MAX_TRIES = 20
"""Places tried for each receiver asked for before the scene is given up (ours)."""


@dataclass(frozen=True)
class TraceSettings:
    """How paths are searched and which are kept.

    Args:
        max_depth: most interactions along a path.
        samples_per_src: rays launched from the transmitter.
        specular_reflection: reflections on walls and ground.
        diffraction: first-order diffraction at edges.
        diffuse_reflection: scattering off rough surfaces.
        refraction: transmission through walls.
        batch: receivers solved at once; memory grows with it.
        dynamic_range_db: paths weaker than the strongest by more are dropped.
        max_paths: most paths kept for a receiver, the strongest.
        weakest_db: a receiver whose strongest path is weaker than that over the transmitted power is not reached. At
            -138 dB, 46 dBm arrive as strong as the thermal noise of 18 MHz behind a noise figure of 9 dB.
    """

    max_depth: int = 5
    samples_per_src: int = 400_000
    specular_reflection: bool = True
    diffraction: bool = True
    diffuse_reflection: bool = False
    refraction: bool = False
    batch: int = 100
    dynamic_range_db: float = 30.0
    max_paths: int = 16
    weakest_db: float = -138.0

    def solver(self) -> dict[str, Any]:
        """Arguments of Sionna RT's path solver."""
        return {key: value for key, value in asdict(self).items() if key not in _OURS}


_OURS = ("batch", "dynamic_range_db", "max_paths", "weakest_db")


class Batch(NamedTuple):
    """Paths of some receivers, ragged like those of a :class:`SiteTable`; ``kept`` is the share of power kept."""

    receivers_m: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    delays_s: npt.NDArray[np.float64]
    powers_db: npt.NDArray[np.float64]
    phases_rad: npt.NDArray[np.float64]
    azimuths_rad: npt.NDArray[np.float64]
    zeniths_rad: npt.NDArray[np.float64]
    los: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.float64]


def trace_site(
    scene: str,
    out: Path,
    receivers: int = 2000,
    seed: int = 0,
    carrier: float = 3.5e9,
    overwrite: bool = False,
) -> SiteTable:
    """Ray-trace a site into a table file for :class:`~lwm.channel.sites.draw.SiteDraw`.

    Args:
        scene: name of a scene of Sionna RT (munich, etoile, florence, ...) or the path of a Mitsuba XML file.
        out: the .npz file to write.
        receivers: places on the streets, each with at least one path.
        seed: seed of the places and of the solver.
        carrier: carrier frequency in Hz.
        overwrite: replace ``out`` where it exists.

    Raises:
        ConfigError: sionna-rt or its LLVM missing, unknown scene, number or carrier out of range, a scene without a
            roof or with too few places that anything reaches.
        OutputError: ``out`` exists and ``overwrite`` is False, or cannot be written.
    """
    out = Path(out)
    require_between("receivers", receivers, 1, MAX_RECEIVERS_ASKED, "")
    require_between("carrier", carrier, 1e8, 1e11, "Hz")
    seed = require_number("seed", seed)
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out}", "a file name that ends in .npz")
    require_empty(out, overwrite=overwrite)
    table = trace_table(scene, receivers, seed, carrier, TraceSettings())
    table.save(out, overwrite=overwrite)
    sight = int(table.line_of_sight.sum())
    say(f"{out}: {table.receivers} receivers, {sight} in line of sight, {table.los.size} paths")
    say(f"Its path is the name of the site, for example SiteDraw({str(out)!r}, receiver=0)")
    return table


def trace_table(scene: str, receivers: int, seed: int, carrier_hz: float, settings: TraceSettings) -> SiteTable:
    """Like :func:`trace_site`, with other settings and without a file."""
    rt = require_tracer()
    file = scene_file(rt, scene)
    loaded = rt.load_scene(file)
    loaded.frequency = carrier_hz
    loaded.tx_array = loaded.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    transmitter, mast = stand_transmitter(loaded, rng_for(seed, "trace-site", "transmitter"))
    loaded.add(rt.Transmitter("transmitter", position=transmitter.tolist()))
    for name in _names(settings.batch):
        loaded.add(rt.Receiver(name, position=[0.0, 0.0, 0.0]))
    batches, tried = _solve_all(rt, loaded, transmitter[:2], receivers, seed, settings)
    joined = [np.concatenate(parts)[: _take(parts, receivers, key, batches)] for key, parts in _columns(batches)]
    found = Batch(*joined)
    name, terms = name_and_terms(rt, file)
    provenance = {
        "scene": name,
        "tracer": f"sionna-rt {version('sionna-rt')}",
        "settings": asdict(settings),
        "seed": seed,
        "antennas": "isotropic, vertical polarisation",
        "transmitter": f"{mast:g} m above a roof",
        "receivers": f"{TERMINAL_M:g} m above open ground, uniform within {CELL_M:g} m of the transmitter",
        "share_of_places_reached": round(sum(len(batch.counts) for batch in batches) / tried, 4),
        "share_of_power_kept": round(float(found.kept.mean()), 5),
        **terms,
    }
    return SiteTable(
        name=name,
        carrier_hz=float(carrier_hz),
        transmitter_m=transmitter,
        offsets=np.concatenate([[0], np.cumsum(found.counts)]).astype(np.int64),
        provenance=provenance,
        **{key: getattr(found, key) for key in Batch._fields if key not in ("counts", "kept")},
    )


def name_and_terms(rt: Any, file: str) -> tuple[str, dict[str, str]]:
    """Name of a table traced from a scene's file, and the attribution and licence that come with that scene."""
    name = shipped_name(rt, file)
    if name is None:
        return Path(file).stem, OWN_TERMS
    return name, OPENSTREETMAP_TERMS if name in OPENSTREETMAP_SCENES else SIONNA_TERMS


def _columns(batches: list[Batch]) -> list[tuple[str, tuple[npt.NDArray[Any], ...]]]:
    return list(zip(Batch._fields, zip(*batches, strict=True), strict=True))


def _take(parts: tuple[npt.NDArray[Any], ...], receivers: int, key: str, batches: list[Batch]) -> int:
    """Rows of one column for the first ``receivers`` receivers."""
    if key in ("receivers_m", "counts", "kept"):
        return receivers
    return int(np.concatenate([batch.counts for batch in batches])[:receivers].sum())


def _names(count: int) -> list[str]:
    return [f"receiver {index}" for index in range(count)]


def _solve_all(
    rt: Any, scene: Any, middle_m: npt.NDArray[np.float64], receivers: int, seed: int, settings: TraceSettings
) -> tuple[list[Batch], int]:
    """Batches that hold at least ``receivers`` receivers with a path, and how many places were tried."""
    solver, rng = rt.PathSolver(), rng_for(seed, "trace-site", "receivers")
    batches: list[Batch] = []
    places = np.empty((0, 3))
    found = tried = 0
    with progress("tracing", receivers, "receivers") as bar:
        while found < receivers:
            if tried >= MAX_TRIES * max(receivers, settings.batch):
                reached = f"{found} of {tried} places on the streets have a path"
                raise ConfigError(reached, f"{receivers} receivers", "ask for fewer --receivers")
            for _ in range(MAX_TRIES):
                if len(places) >= settings.batch:
                    break
                places = _distinct(places, stand_receivers(scene, rng, middle_m))
            else:
                raise ConfigError("hardly any level ground under the open sky", "a scene with streets")
            batch = _solve(solver, scene, places[: settings.batch], seed, settings)
            places = places[settings.batch :]
            tried += settings.batch
            batches.append(batch)
            bar.update(min(len(batch.counts), receivers - found))
            found += len(batch.counts)
    return batches, tried


def _distinct(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Old and new places without repeats, in the order they were drawn."""
    both = np.concatenate([old, new])
    return both[np.sort(np.unique(both, axis=0, return_index=True)[1])]


def _solve(solver: Any, scene: Any, places_m: npt.NDArray[np.float64], seed: int, settings: TraceSettings) -> Batch:
    """Paths to ``places_m [batch, 3]``; places that no path reaches are left out."""
    for name, place in zip(_names(len(places_m)), places_m, strict=True):
        scene.get(name).position = place.tolist()
    paths = solver(scene, synthetic_array=True, seed=seed, **settings.solver())
    shape = (len(places_m), paths.tau.shape[-1])
    gain = (paths.a[0].numpy() + 1j * paths.a[1].numpy()).reshape(shape).astype(np.complex128)
    delay = paths.tau.numpy().reshape(shape).astype(np.float64)
    power = np.abs(gain) ** 2
    power[~paths.valid.numpy().reshape(shape) | (delay <= 0) | (delay > MAX_DELAY_S)] = 0.0
    order = np.argsort(-power, axis=1, kind="stable")[:, : settings.max_paths]
    ranked = np.take_along_axis(power, order, 1)
    floor = ranked[:, :1] * 10 ** (-settings.dynamic_range_db / 10)
    keep = (ranked >= floor) & (ranked[:, :1] >= 10 ** (settings.weakest_db / 10))
    reached = keep.any(axis=1)
    # Baseband phase: the solver's coefficient leaves out the turns of the carrier along the path.
    phase = np.angle(gain) - 2 * np.pi * ((float(scene.frequency[0]) * delay) % 1.0)
    direct = (paths.interactions.numpy().reshape(settings.max_depth, *shape) == 0).all(axis=0)

    def pick(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.take_along_axis(column.reshape(shape), order, 1)[keep]

    return Batch(
        receivers_m=places_m[reached],
        counts=keep.sum(axis=1)[reached],
        delays_s=pick(delay),
        powers_db=10 * np.log10(ranked[keep]),
        phases_rad=pick(phase),
        azimuths_rad=pick(paths.phi_r.numpy()).astype(np.float64),
        zeniths_rad=pick(paths.theta_r.numpy()).astype(np.float64),
        los=pick(direct),
        kept=(ranked * keep).sum(axis=1)[reached] / power.sum(axis=1)[reached],
    )
