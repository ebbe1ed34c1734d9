"""The one check of a number against the range that the channel models take."""

import math

from lwm.errors import ConfigError


def require_between(name: str, value: float, low: float, high: float, unit: str) -> float:
    """``value`` as float when it is finite and in ``[low, high]``.

    Raises:
        ConfigError: NaN, infinite, or out of range; the message says the range and the unit.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} {value} {unit}", f"{low:g} to {high:g} {unit}")
    return float(value)
