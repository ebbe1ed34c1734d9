"""Settings files: what is read, what is refused, and in what words."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from lwm.errors import ConfigError
from lwm.settings import load_settings, read_settings, to_plain


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    count: int
    names: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    on: bool = False


WHOLE = {
    "count": "4e1",
    "names": ["x", "y"],
    "span": ["5e6", 7],
    "limit": None,
    "inner": {"rate": 3, "kind": "b"},
    "parts": {"left": {"rate": 2}},
    "levels": {"cfo": [0, 0.5]},
    "free": {"anything": [1, "two"]},
    "on": True,
}


def test_everything_is_read_in_its_type_and_survives_json() -> None:
    read = read_settings(Outer, WHOLE, "file")
    assert read == Outer(
        count=40,
        names=("x", "y"),
        span=(5e6, 7.0),
        inner=Inner(3.0, "b"),
        parts={"left": Inner(2.0)},
        levels={"cfo": (0.0, 0.5)},
        free={"anything": [1, "two"]},
        on=True,
    )
    assert read_settings(Outer, to_plain(read), "again") == read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, r"no key colour; expected keys among \['count', 'names'"),
        ({"inner": {"speed": 1}}, r"no key inner\.speed; expected keys among \['rate', 'kind'\]"),
        ({"inner": [1]}, r"inner is \[1\]; expected a mapping with keys"),
        ({"parts": {"left": {"kind": "c"}}}, r"parts\.left\.kind is 'c'; expected one of \['a', 'b'\]"),
        ({"count": 2.5}, "count is 2.5; expected a whole number"),
        ({"count": True}, "count is True; expected a whole number"),
        ({"count": float("inf")}, "count is inf; expected a whole number"),
        ({"names": "x"}, "names is 'x'; expected a list of texts"),
        ({"names": [1]}, "names is 1; expected a text"),
        ({"span": [1]}, r"span is \[1\]; expected 2 numbers"),
        ({"limit": "much"}, "limit is 'much'; expected a number"),
        ({"levels": {"cfo": 1}}, "levels.cfo is 1; expected 2 numbers"),
        ({"levels": 1}, "levels is 1; expected a mapping from names to: 2 numbers"),
        ({"on": "yes"}, "on is 'yes'; expected true or false"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(Outer, {"count": 1} | changes, "file")
    assert str(caught.value).startswith("file: ")


def test_missing_keys_and_files_that_are_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file: key count is missing"):
        read_settings(Outer, {}, "file")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"the file is \[1\]; expected a mapping"):
        load_settings(Outer, str(path))
