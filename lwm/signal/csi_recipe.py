"""How Wi-Fi CSI becomes a model input; the counterpart of :class:`lwm.signal.recipe.Recipe` for IQ."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError, ConfigError
from lwm.signal.csi import LONGEST_HOLD, CsiRecording, area_weights
from lwm.signal.recipe_identity import RecipeIdentity


@dataclass(frozen=True)
class CsiRecipe(RecipeIdentity):
    """A window of CSI as a picture ``[C, F, T]``: antennas, subcarriers from low to high, time.

    Power ``|H|^2`` is averaged over each cell: along time over the packets, each of which stands until the next one
    comes (four median intervals at most), along frequency over the used subcarriers' shares. It is divided by its mean
    over the whole window (``"window"``: what the automatic gain control does stays to be seen) or over each packet
    (``"packet"``: it is taken away), then ``10 log10(. + epsilon)``, clipped.

    Args:
        name: preset name, for messages only; no part of the identity.
        duration: s in one picture.
        antennas: channels of the picture.
        size: rows and columns of the picture.
        power_reference: over what the mean is taken.
        epsilon: added to the power before the logarithm.
        floor_db: lower clip, also the level of columns without a packet.
        ceiling_db: upper clip.
        kind: says in shards and models that the recipe is for CSI.
    """

    name: str
    duration: float
    antennas: int
    size: tuple[int, int]
    power_reference: Literal["window", "packet"]
    epsilon: float
    floor_db: float
    ceiling_db: float
    kind: Literal["csi"] = "csi"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        if min(self.antennas, *self.size) < 1 or self.power_reference not in ("window", "packet"):
            raise ConfigError(
                f"recipe {self.name!r}: {self.antennas} antennas, size {self.size}, reference {self.power_reference!r}",
                "positive sizes and a reference of window or packet",
            )
        if not (self.duration > 0 and self.epsilon > 0 and self.ceiling_db > self.floor_db):
            raise ConfigError(f"recipe {self.name!r}", "duration > 0, epsilon > 0 and ceiling_db > floor_db")

    @property
    def in_chans(self) -> int:
        """Channels of the picture."""
        return self.antennas

    @property
    def axes(self) -> Literal["frequency-time"]:
        """Order of the picture's axes."""
        return "frequency-time"

    @property
    def fftshift(self) -> bool:
        """Rows run from low to high frequency."""
        return True

    @property
    def channels(self) -> Literal["grey"]:
        """Values are dB, not colours."""
        return "grey"

    @property
    def summary(self) -> str:
        """What is peculiar to it, in a few words."""
        return f"Wi-Fi CSI of {self.antennas} antenna(s), dB relative to each {self.power_reference}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return asdict(self) | {"size": list(self.size)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "CsiRecipe":
        """Recipe from :meth:`to_dict`; missing and unknown fields are errors."""
        known = {f.name for f in fields(cls)}
        if set(plain) != known:
            wrong = sorted(set(plain) ^ known)
            raise ConfigError(f"CSI recipe with missing or unknown fields {wrong}", f"exactly {sorted(known)}")
        return cls(**plain)

    def picture(
        self, recording: CsiRecording, start: float = 0.0
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Window from ``start`` (s): float32 ``[C, F, T]`` in dB, and bool ``[T]``: columns that packets cover.

        Raises:
            CaptureError: another number of antennas than the recipe's, or no packet in the window.
        """
        found = recording.amplitude.shape[1]
        if found != self.antennas:
            raise CaptureError(
                f"{recording.path}: CSI of {found} antenna(s)",
                f"{self.antennas} for recipe {self.name!r}",
                "take another recipe (--recipe)",
            )
        begin = recording.times - start
        end = np.append(begin[1:], begin[-1] + recording.interval)
        end = np.minimum(end, begin + LONGEST_HOLD * recording.interval)
        inside = (end > 0) & (begin < self.duration)
        if not inside.any():
            raise CaptureError(f"{recording.path}: no packet from {start:g} s on", f"some within {self.duration:g} s")
        power = np.square(recording.amplitude[inside], dtype=np.float64)
        over = (0, 1, 2) if self.power_reference == "window" else (1, 2)
        power /= power.mean(axis=over, keepdims=True) + np.finfo(np.float32).tiny
        along = area_weights(begin[inside], end[inside], self.size[1], self.duration)
        subcarriers = np.arange(power.shape[2], dtype=np.float64)
        across = area_weights(subcarriers, subcarriers + 1, self.size[0], power.shape[2])
        across /= across.sum(1, keepdims=True)
        covered = along.sum(1)
        valid = covered > 1e-9 * self.duration
        cells = np.einsum("tp,pcs,fs->cft", along / np.where(valid, covered, 1)[:, None], power, across, optimize=True)
        db = np.clip(10 * np.log10(cells + self.epsilon), self.floor_db, self.ceiling_db)
        return np.where(valid, db, self.floor_db).astype(np.float32), valid


CSI_PRESETS: dict[str, CsiRecipe] = {
    recipe.name: recipe
    for recipe in (
        CsiRecipe("csi", 1.0, 1, (64, 64), "window", 1e-4, -30.0, 20.0),
        CsiRecipe("csi-fm", 4.0, 3, (224, 224), "window", 1e-4, -30.0, 20.0),
    )
}
"""``csi``: one antenna, a second, as the ESP32 boards give. ``csi-fm``: three antennas on 224x224 as in arXiv
2411.09996, where 2,000 packets make a picture: four seconds at 500 packets a second."""
