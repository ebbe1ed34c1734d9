"""Sionna RT behind one door: is it there, does it solve, which scenes has it, and where in a scene to stand."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import ConfigError

PROBE_TIMEOUT_S = 180

_PROBE = """
import sionna.rt as rt
scene = rt.load_scene(rt.scene.floor_wall)
scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
scene.add(rt.Transmitter("tx", position=[0.0, 1.0, 2.0]))
scene.add(rt.Receiver("rx", position=[0.5, -1.0, 2.0]))
paths = rt.PathSolver()(scene, max_depth=1, samples_per_src=1000)
assert paths.tau.numpy().size > 0
"""

MASTS_M = (5.0, 10.0, 15.0, 20.0, 25.0)
"""Heights of the transmitter above its roof in m (ours): the first is taken from which enough streets are seen."""

SEEN = 0.12
"""Share of the places on the streets that is enough (ours)."""

TERMINAL_M = 1.5
"""Height of a receiver above the ground in m: the terminal of TR 38.901 table 7.2-1."""

CELL_M = 400.0
"""Largest horizontal distance of a receiver from the transmitter in m (ours): an urban macro cell."""

ROOFS = 64
SIGHTS = 500
"""Roofs compared, and places on the streets that they are compared by (ours)."""

FLAT = 0.95
"""Smallest vertical part of a unit normal for a surface to stand on (ours): 18 degrees of slope."""


def installed() -> bool:
    """Whether the distribution sionna-rt is there, without importing any of it."""
    try:
        version("sionna-rt")
    except PackageNotFoundError:
        return False
    return True


def require_tracer() -> Any:
    """The module ``sionna.rt``, after a tiny real solve in a process of its own.

    With no LLVM or an old one Dr.Jit aborts the whole process, so the first solve is never made in ours.

    Raises:
        ConfigError: sionna-rt is not installed, or its solve fails here.
    """
    # Asked of the distribution: looking for the module would import its package, which starts Dr.Jit.
    if not installed():
        raise ConfigError("ray tracing needs the package sionna-rt", remedy='pip install "lwm[rt]"')
    remedy = "install LLVM 19 (Debian: apt install libllvm19) and set DRJIT_LIBLLVM_PATH to its libLLVM-19.so"
    wanted = "sionna-rt with an LLVM that Dr.Jit takes"
    try:
        ran = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"a tiny ray tracing took over {PROBE_TIMEOUT_S} s", wanted, remedy) from error
    if ran.returncode:
        last = (ran.stderr.strip() or "no message").splitlines()[-1][:200]
        library = os.environ.get("DRJIT_LIBLLVM_PATH", "not set")
        given = f"ray tracing fails here (exit {ran.returncode}: {last}; DRJIT_LIBLLVM_PATH {library})"
        raise ConfigError(given, wanted, remedy)
    import sionna.rt

    return sionna.rt


def scene_file(rt: Any, scene: str) -> str:
    """File of a scene: a name that Sionna RT ships, or the path of a Mitsuba XML file.

    Raises:
        ConfigError: neither a name nor a file; the message lists the names.
    """
    if Path(scene).suffix == ".xml" and Path(scene).is_file():
        return scene
    shipped = _shipped_scenes(rt)
    if scene not in shipped:
        raise ConfigError(f"no scene {scene!r}", f"the path of a Mitsuba .xml file or one of {sorted(shipped)}")
    return shipped[scene]


def shipped_name(rt: Any, file: str) -> str | None:
    """Name under which Sionna RT ships the scene in this very file; None for any other file, whatever it is called."""
    place = Path(file).resolve()
    return next((name for name, path in _shipped_scenes(rt).items() if Path(path).resolve() == place), None)


def _shipped_scenes(rt: Any) -> dict[str, str]:
    """File of each scene that Sionna RT ships."""
    return {key: path for key, path in vars(rt.scene).items() if isinstance(path, str) and path.endswith(".xml")}


class Survey(NamedTuple):
    """What vertical rays meet at some places of a scene.

    Args:
        places_m: float64 ``[places, 2]``: x and y in m.
        top_m: float64 ``[places]``: height of the highest surface, NaN where there is none.
        ground_m: float64 ``[places]``: height of the lowest surface.
        flat: bool ``[places]``: True where the highest surface is near enough to horizontal to stand on.
    """

    places_m: npt.NDArray[np.float64]
    top_m: npt.NDArray[np.float64]
    ground_m: npt.NDArray[np.float64]
    flat: npt.NDArray[np.bool_]

    @property
    def streets(self) -> npt.NDArray[np.bool_]:
        """True where the only surface is level ground under the open sky."""
        return self.flat & (self.top_m - self.ground_m < 0.01)

    @property
    def roofs(self) -> npt.NDArray[np.bool_]:
        """True on a level surface at least one storey, 3 m, above the ground."""
        return self.flat & (self.top_m - self.ground_m > 3.0)


def bounds(scene: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest corner ``[3]`` of everything in the scene, in m."""
    box = scene.mi_scene.bbox()
    return np.array(box.min, np.float64).ravel(), np.array(box.max, np.float64).ravel()


def survey(scene: Any, places_m: npt.NDArray[np.float64]) -> Survey:
    """Cast a ray down from the sky and one up from below at each place ``[places, 2]``."""
    low, high = bounds(scene)
    top, normal = _cast(scene, places_m, high[2] + 10, -1)
    ground, _ = _cast(scene, places_m, low[2] - 10, 1)
    return Survey(places_m, top, ground, np.abs(normal) > FLAT)


def _cast(
    scene: Any, places_m: npt.NDArray[np.float64], from_m: float, direction: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    import mitsuba as mi

    x, y = (np.ascontiguousarray(axis, np.float32) for axis in places_m.T)
    ray = mi.Ray3f(mi.Point3f(x, y, np.full_like(x, from_m)), mi.Vector3f(0.0, 0.0, float(direction)))
    hit = scene.mi_scene.ray_intersect(ray)
    height = np.where(np.array(hit.is_valid()), np.array(hit.p.z, np.float64), np.nan)
    return height, np.array(hit.n.z, np.float64)


def stand_transmitter(scene: Any, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], float]:
    """A place on a mast on a roof near the middle of the scene that looks over the streets.

    The middle is a disc of 15 % of the shorter side, doubled until it holds a roof. Of ``ROOFS`` roofs in it between
    the median and the 99th percentile of height above ground (so that no spire is taken), the one that sees the most
    of ``SIGHTS`` places on the streets; its mast is the lowest of ``MASTS_M`` that sees ``SEEN`` of them, or the
    highest.

    Returns:
        position ``[3]`` in m, height of the mast above the roof in m.

    Raises:
        ConfigError: no level roof, or no street anywhere.
    """
    low, high = bounds(scene)
    middle, side = (low + high)[:2] / 2, (high - low)[:2].min()
    streets = stand_receivers(scene, rng, middle)[:SIGHTS]
    if not len(streets):
        raise ConfigError("a scene without level ground under the open sky", "streets for the receivers to stand on")
    for share in (0.15, 0.3, 0.6, 1.2):
        found = survey(scene, np.round(middle + share * side * _disc(rng, 20_000), 2))
        roofs = np.flatnonzero(found.roofs)
        if roofs.size:
            height = found.top_m[roofs] - found.ground_m[roofs]
            ranks = np.linspace(0.5, 0.99, min(ROOFS, roofs.size)) * (roofs.size - 1)
            roofs = roofs[np.argsort(height, kind="stable")[ranks.astype(int)]]
            return _raise_mast(scene, np.column_stack([found.places_m[roofs], found.top_m[roofs]]), streets)
    raise ConfigError("a scene without a level roof", "buildings for the transmitter to stand on")


def _raise_mast(
    scene: Any, roofs_m: npt.NDArray[np.float64], streets_m: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """The roof of ``[roofs, 3]`` and the mast on it that see enough of ``streets_m [places, 3]``."""
    for mast in MASTS_M:
        tops = np.round(roofs_m + np.array([0.0, 0.0, mast]), 2)
        seen = [sees(scene, top, streets_m).mean() for top in tops]
        if max(seen) >= SEEN or mast == MASTS_M[-1]:
            break
    return tops[int(np.argmax(seen))], mast


def sees(scene: Any, from_m: npt.NDArray[np.float64], to_m: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """True for each of the points ``to_m [points, 3]`` that nothing hides from the point ``from_m [3]``."""
    import mitsuba as mi

    along = (to_m - from_m).astype(np.float32)
    ray = mi.Ray3f(mi.Point3f(*(float(value) for value in from_m)), mi.Vector3f(*np.ascontiguousarray(along.T)))
    ray.maxt = 0.9999  # type: ignore[assignment]
    return ~np.array(scene.mi_scene.ray_test(ray)).astype(bool)


def stand_receivers(scene: Any, rng: np.random.Generator, middle_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Some random places in the open, ``TERMINAL_M`` above level ground: float64 ``[places, 3]`` in m, to the cm.

    They are uniform over the scene's part within ``CELL_M`` of ``middle_m [2]``.
    """
    low, high = bounds(scene)
    low, high = np.maximum(low[:2], middle_m - CELL_M), np.minimum(high[:2], middle_m + CELL_M)
    found = survey(scene, np.round(rng.uniform(low, high, (4096, 2)), 2))
    at = found.streets & (np.hypot(*(found.places_m - middle_m).T) <= CELL_M)
    return np.column_stack([found.places_m[at], np.round(found.top_m[at] + TERMINAL_M, 2)])


def _disc(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Points uniform over the unit disc ``[count, 2]``."""
    angle = 2 * np.pi * rng.random(count)
    return np.sqrt(rng.random(count))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
