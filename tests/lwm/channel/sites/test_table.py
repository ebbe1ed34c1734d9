"""Site tables: the shipped ones against free space and geometry, their file, and what is refused."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest

from lwm.channel.sites import SITES, SiteTable, load_table, site_table
from lwm.channel.sites.shipped import DATA
from lwm.channel.sites.table import STEPS
from lwm.errors import ConfigError, DatasetError, OutputError

SPEED_OF_LIGHT = 299_792_458.0


def tiny(**changes) -> SiteTable:
    """Two receivers 30 m and 60 m from the transmitter, one and two paths."""
    delays = np.array([30.0, 60.0, 90.0]) / SPEED_OF_LIGHT
    content = {
        "name": "tiny",
        "carrier_hz": 3.5e9,
        "transmitter_m": np.array([0.0, 0.0, 10.0]),
        "receivers_m": np.array([[30.0, 0.0, 10.0], [0.0, 60.0, 10.0]]),
        "offsets": np.array([0, 1, 3]),
        "delays_s": delays,
        "powers_db": np.array([-72.9, -78.9, -90.0]),
        "phases_rad": np.array([0.1, 1.0, -2.0]),
        "azimuths_rad": np.array([np.pi, -np.pi / 2, 0.0]),
        "zeniths_rad": np.full(3, np.pi / 2),
        "los": np.array([True, True, False]),
        "provenance": {"scene": "none"},
    }
    return SiteTable(**{**content, **changes})


def direct(table: SiteTable) -> tuple[np.ndarray, np.ndarray]:
    """Direct paths of a table: their indices and their receivers."""
    return np.flatnonzero(table.los), np.repeat(np.arange(table.receivers), table.path_counts)[table.los]


@pytest.mark.parametrize("name", SITES)
def test_shipped_table_has_2000_distinct_receivers_and_says_where_it_comes_from(name):
    table = site_table(name)
    assert table.name == name
    assert table.receivers == 2000
    assert len(np.unique(table.receivers_m, axis=0)) == 2000
    assert table.path_counts.max() <= table.provenance["settings"]["max_paths"]
    assert table.provenance["tracer"].startswith("sionna-rt ")
    assert table.provenance["share_of_power_kept"] > 0.98
    made_from_osm = name != "simple_street_canyon"
    assert ("OpenStreetMap contributors" in table.provenance["attribution"]) == made_from_osm
    assert table.provenance["licence"].startswith("ODbL-1.0" if made_from_osm else "Apache-2.0")


def test_shipped_tables_are_under_a_megabyte_and_their_terms_lie_beside_them():
    sizes = [(DATA / f"{name}.npz").stat().st_size for name in SITES]
    assert sum(sizes) < 1_000_000
    terms = (DATA / "README.md").read_text(encoding="utf-8")
    assert "© OpenStreetMap contributors" in terms
    assert "https://opendatacommons.org/licenses/odbl/1-0/" in terms
    assert all(f"`{name}.npz`" in terms for name in SITES)


@pytest.mark.parametrize("name", SITES)
def test_every_figure_beside_the_tables_is_that_of_their_provenance(name):
    text = " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    table = site_table(name)
    settings = table.provenance["settings"]
    said = {
        "receivers": float(re.search(r"([\d,]+) receivers on the streets", text)[1].replace(",", "")),
        "carrier_hz": float(re.search(r"at ([\d.]+) GHz", text)[1]) * 1e9,
        "max_depth": float(re.search(r"up to (\d+) interactions", text)[1]),
        "samples_per_src": float(re.search(r"([\d,]+) rays launched", text)[1].replace(",", "")),
        "max_paths": float(re.search(r"the (\d+) strongest paths", text)[1]),
        "dynamic_range_db": float(re.search(r"within (\d+) dB of the strongest", text)[1]),
        "weakest_db": float(re.search(r"at least (-\d+) dB", text)[1]),
    }
    assert said == {**{key: settings.get(key) for key in said}, "receivers": 2000, "carrier_hz": table.carrier_hz}
    # And the numbers themselves are what the settings promise, within the rounding of the file.
    assert table.path_counts.max() == settings["max_paths"]
    strongest = np.maximum.reduceat(table.powers_db, table.offsets[:-1])
    assert strongest.min() >= settings["weakest_db"] - STEPS["powers_db"]
    weaker = np.repeat(strongest, table.path_counts) - table.powers_db
    assert weaker.max() <= settings["dynamic_range_db"] + 1.001 * STEPS["powers_db"]


@pytest.mark.parametrize("name", SITES)
def test_direct_path_is_the_first_and_takes_distance_over_c(name):
    table = site_table(name)
    paths, receivers = direct(table)
    assert paths.size > 100
    # Half a step of the delay, and what half a centimetre in each coordinate can do to the distance.
    bound = STEPS["delays_s"] / 2 + np.sqrt(3) * 0.005 / SPEED_OF_LIGHT
    assert np.abs(table.delays_s[paths] - table.distances_m[receivers] / SPEED_OF_LIGHT).max() <= bound
    assert np.array_equal(table.first_arrivals_s[receivers], table.delays_s[paths])


@pytest.mark.parametrize("name", SITES)
def test_no_path_is_shorter_than_the_straight_line(name):
    table = site_table(name)
    assert (table.first_arrivals_s - table.distances_m / SPEED_OF_LIGHT).min() > -1e-10


@pytest.mark.parametrize("name", SITES)
def test_direct_path_has_the_power_and_direction_of_free_space(name):
    table = site_table(name)
    paths, receivers = direct(table)
    friis = 20 * np.log10(SPEED_OF_LIGHT / table.carrier_hz / (4 * np.pi * table.distances_m[receivers]))
    assert np.abs(table.powers_db[paths] - friis).max() <= STEPS["powers_db"] / 2 + 0.01
    zenith, azimuth = table.zeniths_rad[paths], table.azimuths_rad[paths]
    arrival = np.array([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)])
    towards = (table.transmitter_m - table.receivers_m[receivers]) / table.distances_m[receivers, None]
    # Half a step of either angle.
    assert np.arccos(np.clip((arrival.T * towards).sum(axis=1), -1, 1)).max() <= np.hypot(np.pi / 256, np.pi / 510)


@pytest.mark.parametrize("name", SITES)
def test_power_falls_with_distance(name):
    table = site_table(name)
    edges = np.quantile(table.distances_m, [0, 0.25, 0.5, 0.75, 1])
    quarter = np.clip(np.searchsorted(edges, table.distances_m, side="right") - 1, 0, 3)
    medians = [np.median(table.received_power_db[quarter == at]) for at in range(4)]
    assert medians[0] > medians[3] + 3
    assert np.polyfit(np.log10(table.distances_m), table.received_power_db, 1)[0] < 0


def test_numbers_of_a_receiver_against_closed_forms():
    table = tiny()
    assert table.path_counts.tolist() == [1, 2]
    assert table.line_of_sight.tolist() == [True, True]
    power = 10 ** (table.powers_db / 10)
    assert table.received_power_db == pytest.approx([-72.9, 10 * np.log10(power[1] + power[2])])
    share = power[2] / (power[1] + power[2])
    spread = 30 / SPEED_OF_LIGHT * np.sqrt(share * (1 - share))
    assert table.delay_spreads_s == pytest.approx([0.0, spread], abs=1e-15)


def test_saved_table_comes_back_within_the_steps_and_in_the_same_bytes(tmp_path):
    table = tiny()
    table.save(tmp_path / "a.npz")
    table.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = load_table(tmp_path / "a.npz")
    for key in ("receivers_m", "delays_s", "powers_db", "zeniths_rad"):
        assert np.abs(getattr(back, key) - getattr(table, key)).max() <= STEPS[key] / 2 * 1.0001
    for key in ("phases_rad", "azimuths_rad"):
        assert np.abs(np.angle(np.exp(1j * (getattr(back, key) - getattr(table, key))))).max() <= STEPS[key] / 2 + 1e-12
    assert back.los.tolist() == table.los.tolist()
    assert back.offsets.tolist() == table.offsets.tolist()
    assert dict(back.provenance) == {"scene": "none"}
    with pytest.raises(OutputError, match="overwrite"):
        table.save(tmp_path / "a.npz")


def test_a_plain_npz_of_floats_is_a_table_too(tmp_path):
    table = tiny()
    header = {"format_version": 1, "name": "mine", "carrier_hz": 2e9, "transmitter_m": [0, 0, 10]}
    arrays = {key: getattr(table, key) for key in STEPS}
    np.savez(tmp_path / "mine.npz", counts=[1, 2], los=table.los, header=json.dumps(header), **arrays)
    mine = site_table(str(tmp_path / "mine.npz"))
    assert mine.name == "mine"
    assert np.array_equal(mine.delays_s, table.delays_s)
    assert mine.los.tolist() == table.los.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delays_s": np.array([1e-7, -1e-9, 2e-7])}, "more than 0"),
        ({"delays_s": np.array([1e-7, 1.0, 2e-7])}, "at most 0.0001 s"),
        ({"delays_s": np.array([1e-7, np.nan, 2e-7])}, "delays_s with NaN"),
        ({"powers_db": np.array([-70.0, np.inf, -70.0])}, "powers_db with NaN or infinity"),
        ({"powers_db": np.array([-70.0, -1e6, -70.0])}, "-400 to 400 dB"),
        ({"zeniths_rad": np.array([0.0, 90.0, 0.0])}, "0 to pi rad"),
        ({"azimuths_rad": np.array([0.0, 180.0, 0.0])}, "degrees to radians"),
        ({"offsets": np.array([0, 0, 3])}, "1 receivers without a path, the first 0"),
        ({"offsets": np.array([0, 1, 4])}, "offsets that do not cover"),
        ({"los": np.array([True, False])}, r"los of shape \(2,\)"),
        ({"los": np.array([True, True, True])}, "receiver 1 with 2 direct paths"),
        ({"receivers_m": np.zeros((2, 2))}, r"\[receivers, 3\]"),
        ({"receivers_m": np.zeros((0, 3)), "offsets": np.zeros(1, int)}, "1 to 2000000 receivers"),
        ({"carrier_hz": 0.0}, "carrier 0.0 Hz"),
    ],
)
def test_bad_tables_are_refused(changes, message):
    with pytest.raises(DatasetError, match=message):
        tiny(**changes)


def test_files_that_are_no_table_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="munich.*simple_street_canyon"):
        site_table("atlantis")
    with pytest.raises(DatasetError, match="no site table"):
        load_table(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no table")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_table(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", delays_s=np.ones(3))
    with pytest.raises(DatasetError, match="lacks the arrays.*'receivers_m'"):
        load_table(tmp_path / "other.npz")
    tiny().save(tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-200])
    with pytest.raises(DatasetError, match="half.npz cannot be read"):
        load_table(tmp_path / "half.npz")


def test_a_table_with_bits_of_sight_cut_off_or_too_many_is_refused(tmp_path):
    with np.load(DATA / "munich.npz") as archive:
        arrays = dict(archive)
    wanted = -(-site_table("munich").los.size // 8)
    for name, los in (("short", arrays["los"][:-1]), ("long", np.append(arrays["los"], 0).astype(np.uint8))):
        np.savez(tmp_path / f"{name}.npz", **{**arrays, "los": los})
        with pytest.raises(DatasetError, match=rf"{name}.npz: los of shape .* expected \({wanted},\), one bit a path"):
            load_table(tmp_path / f"{name}.npz")


def write_header(path, **changes):
    """The table of Munich with another header."""
    with np.load(DATA / "munich.npz") as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "header": json.dumps(json.loads(arrays["header"].tobytes()) | changes)})


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": []},
        {"steps": {"delays_s": None}},
        {"provenance": 3},
        {"carrier_hz": 10**400},
        {"carrier_hz": {}},
        {"transmitter_m": None},
        {"transmitter_m": [1]},
    ],
)
def test_headers_of_the_wrong_kind_are_refused_with_the_file_and_what_to_do(tmp_path, changes):
    write_header(tmp_path / "odd.npz", **changes)
    with pytest.raises(DatasetError, match="odd.npz: .*trace it again") as caught:
        load_table(tmp_path / "odd.npz")
    assert "\n" not in str(caught.value)


def test_a_saved_table_is_never_one_that_cannot_be_read(tmp_path):
    # Rounded to the step these would be a delay of 0, one beyond the longest, and angles at the end of their range.
    delays = np.array([0.01e-9, 100e-6, 0.04e-9])
    tiny(delays_s=delays, zeniths_rad=np.array([0.0, np.pi, np.pi + 1e-6])).save(tmp_path / "a.npz")
    assert load_table(tmp_path / "a.npz").delays_s == pytest.approx([1e-10, 100e-6, 1e-10])


def test_content_is_the_same_under_another_name_and_other_where_a_number_is_other(tmp_path):
    table = tiny()
    table.save(tmp_path / "copy.npz")
    assert load_table(tmp_path / "copy.npz").content_hash == table.content_hash
    assert tiny(name="other", provenance={}, carrier_hz=2e9).content_hash == table.content_hash
    hashes = {site_table(name).content_hash for name in SITES} | {table.content_hash}
    for key in STEPS:
        changed = getattr(table, key).copy()
        changed.flat[0] += 2 * STEPS[key]
        hashes.add(tiny(**{key: changed}).content_hash)
    hashes.add(tiny(offsets=np.array([0, 2, 3]), los=np.array([True, False, True])).content_hash)
    hashes.add(tiny(los=np.zeros(3, bool)).content_hash)
    assert len(hashes) == len(SITES) + 1 + len(STEPS) + 2


def test_a_table_that_is_written_again_is_read_again(tmp_path):
    path = tmp_path / "site.npz"
    tiny().save(path)
    first = site_table(str(path))
    assert site_table(str(path)) is site_table(path) is first
    tiny(powers_db=np.array([-60.0, -78.9, -90.0])).save(path, overwrite=True)
    assert site_table(str(path)).powers_db[0] == pytest.approx(-60.0)
    # The same size at another time is another file too.
    os.utime(path, ns=(1, 1))
    assert site_table(str(path)) is not first
    path.unlink()
    with pytest.raises(ConfigError, match="no site"):
        site_table(str(path))


def test_a_pickle_in_a_table_is_never_loaded(tmp_path):
    with np.load(DATA / "munich.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "pickle.npz", **{**arrays, "los": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(DatasetError, match="without pickles"):
        load_table(tmp_path / "pickle.npz")


def test_a_damaged_header_and_a_table_of_another_version_are_refused(tmp_path):
    with np.load(DATA / "munich.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "header.npz", **{**arrays, "header": np.frombuffer(b"{", np.uint8)})
    with pytest.raises(DatasetError, match="header.npz"):
        load_table(tmp_path / "header.npz")
    header = json.loads(arrays["header"].tobytes()) | {"format_version": 9}
    np.savez(tmp_path / "nine.npz", **{**arrays, "header": json.dumps(header)})
    with pytest.raises(DatasetError, match="format version 9; expected version 1"):
        load_table(tmp_path / "nine.npz")


def test_a_table_cannot_be_changed_in_place():
    table = tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        table.delays_s[0] = 1.0
