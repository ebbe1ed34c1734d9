"""One draw of a site's channel: a receiver's traced paths, faded or as they are, and a direction of travel."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from lwm.channel.draw import ChannelDraw, Rays, jakes_rays
from lwm.channel.limits import require_number
from lwm.channel.sites.shipped import SITES, site_table
from lwm.channel.sites.table import STEPS, SiteTable
from lwm.errors import ConfigError
from lwm.seeding import rng_for

Fading = Literal["rayleigh", "traced"]


@dataclass(frozen=True)
class SiteDraw(ChannelDraw):
    """The channel to one receiver of a site, the terminal moving level in a direction drawn from the seed.

    ``"rayleigh"`` is the combination of LWM-Spectro: the traced delays and powers, each tap faded on its own with the
    Doppler spectrum of TR 38.901 clause 7.7.2; the direct path does not fade and turns with its own direction.
    ``"traced"`` is the ray tracer's word for word: each path one ray with its traced phase, its Doppler the largest
    Doppler times the cosine between its arrival and the direction of travel. Traced phases hold at the table's carrier
    only: at another one the same paths would add up in another way, and the draw is one plausible channel, not that
    of the place.

    Args:
        site: name in :data:`SITES`, the path of a table file, or a DeepMIMO scenario folder.
        receiver: number of the receiver in the site's table.
        fading: ``"rayleigh"`` or ``"traced"``.
        seed: seed of the direction of travel and of the fading.
        index: number of the draw under that seed.

    Raises:
        ConfigError: unknown site or fading, a receiver that the site does not have, seed or index that is negative or
            no whole number.
        DatasetError: a table that cannot be used.
    """

    model: ClassVar[str] = "site"

    site: str
    receiver: int
    fading: Fading = "rayleigh"
    seed: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        # Plain values, whatever numpy or pathlib gave: the draw goes into JSON and its seed into random streams' names.
        if isinstance(self.site, PathLike):
            object.__setattr__(self, "site", str(self.site))
        for name in ("seed", "index"):
            object.__setattr__(self, name, require_number(f"channel {name}", getattr(self, name)))
        if self.fading not in get_args(Fading):
            raise ConfigError(f"fading {self.fading!r}", f"one of {list(get_args(Fading))}")
        receiver = require_number(f"site {self.site}, receiver", self.receiver, self.table.receivers - 1)
        object.__setattr__(self, "receiver", receiver)

    @property
    def table(self) -> SiteTable:
        """The site's table."""
        return site_table(self.site)

    @property
    def id(self) -> str:
        """Name of the draw, the same for the same draw only."""
        return f"{self.site}/{self.receiver}/{self.fading}/{self.seed}/{self.index}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the table says of the receiver: power over the transmitted in dB, distance in m, and so on."""
        table, receiver = self.table, self.receiver
        return {
            "site": table.name,
            "received_power_db": round(float(table.received_power_db[receiver]), 2),
            "distance_m": round(float(table.distances_m[receiver]), 2),
            "line_of_sight": bool(table.line_of_sight[receiver]),
            "delay_spread_s": float(f"{table.delay_spreads_s[receiver]:.4g}"),
            "paths": int(table.path_counts[receiver]),
        }

    @cached_property
    def delays_s(self) -> npt.NDArray[np.float64]:
        """Delay in s of each tap ``[taps]`` after the first arrival, rising."""
        return self._taps[0]

    @cached_property
    def travel(self) -> npt.NDArray[np.float64]:
        """Direction of travel: unit vector ``[3]``, level."""
        angle = 2 * np.pi * rng_for(self.seed, "site", self.index, "travel").random()
        return np.array([np.cos(angle), np.sin(angle), 0.0])

    @cached_property
    def rays(self) -> Rays:
        """Rays ``[taps, rays]`` with a mean power of 1 in all."""
        table, paths = self.table, self.table.paths(self.receiver)
        powers = 10 ** (table.powers_db[paths] / 10)
        powers = powers / powers.sum()
        zenith, azimuth = table.zeniths_rad[paths], table.azimuths_rad[paths]
        # The direction of travel is level: the vertical part of an arrival has no Doppler.
        cosines = np.sin(zenith) * (np.cos(azimuth) * self.travel[0] + np.sin(azimuth) * self.travel[1])
        alone = np.sqrt(powers) * np.exp(1j * table.phases_rad[paths])
        if self.fading == "traced":
            return _side_by_side(self._taps[1], cosines, alone)
        direct = table.los[paths]
        faded = np.zeros(self.delays_s.size)
        np.add.at(faded, self._taps[1], np.where(direct, 0.0, powers))
        rays = jakes_rays(faded, rng_for(self.seed, "site", self.index, "fading"))
        if not direct.any():
            return rays
        ray = _side_by_side(self._taps[1][direct], cosines[direct], alone[direct], self.delays_s.size)
        cosines = np.append(rays.cosines, ray.cosines, axis=1)
        return Rays(cosines, np.append(rays.amplitudes, ray.amplitudes, axis=1))

    @cached_property
    def _taps(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Delays of the taps in s, and the tap of each path: paths within the table's resolution share one."""
        paths = self.table.paths(self.receiver)
        excess = self.table.delays_s[paths] - self.table.delays_s[paths].min()
        steps, tap = np.unique(np.round(excess / STEPS["delays_s"]), return_inverse=True)
        return steps * STEPS["delays_s"], tap

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return {"model": self.model, **asdict(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "SiteDraw":
        """Draw from :meth:`to_dict`.

        Raises:
            ConfigError: another model, missing or unknown fields.
        """
        known = {"model", *(field.name for field in fields(cls))}
        if plain.get("model") != cls.model or set(plain) != known:
            given = f"channel draw of model {plain.get('model')!r} with fields {sorted(plain)}"
            raise ConfigError(given, f"model {cls.model!r} with exactly {sorted(known)}")
        return cls(**{name: value for name, value in plain.items() if name != "model"})


def draw_site(seed: int, index: int, sites: str | Sequence[str] = SITES, fading: Fading = "rayleigh") -> SiteDraw:
    """Draw number ``index`` of ``seed``: a site out of ``sites``, then one of its receivers, both uniform.

    Args:
        seed: the run's seed.
        index: number of the draw.
        sites: one site or several to choose from: names in :data:`SITES`, table files, DeepMIMO folders.
        fading: ``"rayleigh"`` or ``"traced"``.

    Raises:
        ConfigError: no site to choose from, unknown site or fading, seed or index that is negative or no whole number.
    """
    seed, index = require_number("channel seed", seed), require_number("channel index", index)
    names = [sites] if isinstance(sites, str) else list(sites)
    if not names:
        raise ConfigError("no site to draw from", f"some of {list(SITES)} or paths of tables")
    rng = rng_for(seed, "draw-site", index)
    site = names[int(rng.integers(len(names)))]
    return SiteDraw(site, int(rng.integers(site_table(site).receivers)), fading, seed, index)


def _side_by_side(
    tap: npt.NDArray[np.int64],
    cosines: npt.NDArray[np.float64],
    amplitudes: npt.NDArray[np.complex128],
    taps: int = 0,
) -> Rays:
    """Rays ``[taps, most rays of a tap]`` out of one ray a path; where a tap has fewer the rest is 0."""
    taps = max(taps, int(tap.max()) + 1)
    order = np.argsort(tap, kind="stable")
    first = np.searchsorted(tap[order], np.arange(taps))
    column = np.arange(tap.size) - first[tap[order]]
    shape = (taps, int(column.max()) + 1)
    rays = Rays(np.zeros(shape), np.zeros(shape, np.complex128))
    rays.cosines[tap[order], column] = cosines[order]
    rays.amplitudes[tap[order], column] = amplitudes[order]
    return rays
