"""The checks of numbers against the ranges that the channel models take."""

import operator
from numbers import Real
from typing import Any

from lwm.errors import ConfigError

_LONGEST = 1e308


def is_number(value: Any) -> bool:
    """True for a real number of Python or numpy, be it NaN; False for text, truth values and arrays."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_between(name: str, value: Any, low: float, high: float, unit: str) -> float:
    """``value`` as float when it is finite and in ``[low, high]``; numpy's scalars are numbers too.

    Raises:
        ConfigError: no number, NaN, infinite, or out of range; the message says the range and the unit.
    """
    expected = f"{low:g} to {high:g} {unit}"
    if not is_number(value):
        raise ConfigError(f"{name} {value!r}", f"a number, {expected}")
    # Compared as it is: an integer may be too long for a float, and even for a message.
    if not low <= value <= high:
        shown = "beyond 1e308" if isinstance(value, int) and abs(value) > _LONGEST else value
        raise ConfigError(f"{name} {shown} {unit}", expected)
    return float(value)


def require_number(name: str, value: Any, most: int | None = None) -> int:
    """``value`` as int when it is a whole number from 0 to ``most``, such as a seed; numpy's integers are, too.

    Raises:
        ConfigError: text, a fraction, a truth value, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool) or (most is not None and number > most):
        raise ConfigError(f"{name} {value!r}", f"a whole number, {'0 or more' if most is None else f'0 to {most}'}")
    return number
