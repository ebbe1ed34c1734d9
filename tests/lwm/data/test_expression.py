"""Selections: what they mean, and what is refused."""

import numpy as np
import pytest

from lwm.data.expression import select
from lwm.errors import DatasetError

NAMES = {"technology": ["lte", "nr"], "snr": ["-5", "0", "10"], "class": ["x", "y"], "code rate": ["0.5", "0.75"]}
LABELS = {
    "technology": np.array([0, 1, 0, 1, -1], np.int16),
    "snr": np.array([0, 1, 2, 2, 1], np.int16),
    "class": np.array([0, 1, 1, 0, 0], np.int16),
    "code rate": np.array([0, 0, 1, 1, -1], np.int16),
}
VALUES = {"speed_kmh": np.array([3.6, 50, 120, np.nan, 0], np.float32)}


def _rows(expression: str) -> list[int]:
    return np.flatnonzero(select(expression, LABELS, NAMES, VALUES, 5)).tolist()


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ('snr >= 0 and technology == "lte"', [2]),
        ("snr >= 0", [1, 2, 3, 4]),
        ("-5 <= snr < 10", [0, 1, 4]),
        ("10 > snr", [0, 1, 4]),
        ("snr == 10 or speed_kmh == 3.6", [0, 2, 3]),
        ('snr == "10"', [2, 3]),
        ("snr in [-5, 10]", [0, 2, 3]),
        ("snr not in (0,)", [0, 2, 3]),
        ('technology in ["lte", "nr"]', [0, 1, 2, 3]),
        ('technology != "lte"', [1, 3]),
        ('technology not in ["lte"]', [1, 3]),
        ('not (technology == "lte")', [1, 3]),
        ('not (technology == "lte" and snr == 10)', [0, 1, 3, 4]),
        ('not (technology == "lte" or snr == 10)', [1]),
        ('not technology in ["lte"]', [1, 3]),
        ('not technology not in ["lte"]', [0, 2]),
        ("not speed_kmh > 3.6", [0, 4]),
        ("not 0 < speed_kmh < 100", [2, 4]),
        ("not not speed_kmh > 100", [2]),
        ("speed_kmh < 100", [0, 1, 4]),
        ("speed_kmh != 50", [0, 2, 4]),
        ("snr < speed_kmh", [0, 1, 2]),
        ('class == "x" and snr < 5', [0, 4]),
        ("`code rate` > 0.5", [2, 3]),
        ('(technology == "nr" or class == "y") and not snr == 0', [2, 3]),
    ],
)
def test_meaning(expression: str, rows: list[int]) -> None:
    assert _rows(expression) == rows


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("link == 1", r"names 'link', which is no label or value; expected labels \['class', 'code rate'.*'speed_kmh'"),
        ('technology == "wifi"', r"label 'technology' for \['wifi'\], .*expected some of \['lte', 'nr'\]"),
        ("technology > 3", r"label 'technology' with a number; expected some of its names \['lte', 'nr'\]"),
        ('technology > "lte"', "orders technology by text"),
        ('speed_kmh == "fast"', "a number without quotes"),
        ("snr >=", "is not an expression"),
        ("technology", "which is no comparison"),
        ("1 == 1", "a label or value on one side"),
        ("snr is 3", "uses 'is'"),
        ('__import__("os").system("true") == 0', "holds"),
        ("snr + 1 > 3", "holds 'snr [+] 1'"),
        ("snr.real > 3", "holds 'snr.real'"),
        ("snr in speed_kmh", "holds snr in speed_kmh"),
        ("[x for x in snr] == 1", "holds"),
        ("snr == True", "holds 'True'"),
        ("technology == lte", 'holds lte without quotes; expected names of label technology .* did you mean "lte"[?]'),
        ("nr != technology", 'did you mean "nr"[?]'),
        ("technology in [lte]", 'did you mean "lte"[?]'),
        ("not " * 3000 + "snr == 0", "is nested too deeply"),
        ("(" * 3000 + "snr == 0" + ")" * 3000, "is not an expression|is nested too deeply"),
        ("snr == " + "-" * 3000 + "1", "is nested too deeply"),
    ],
)
def test_refused(expression: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _rows(expression)
