"""Tracing a site: the refusals without the tracer, and a real tiny trace where Sionna RT works."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lwm.channel.sites import SiteDraw, trace, trace_site, tracer
from lwm.errors import ConfigError, OutputError


def test_without_sionna_rt_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(tracer, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r'pip install "lwm\[rt\]"'):
        trace_site("munich", tmp_path / "a.npz", 10)


def test_a_solve_that_aborts_names_llvm_and_its_variable(monkeypatch, tmp_path):
    # What Dr.Jit does with an old LLVM: the process is gone, no exception to catch.
    monkeypatch.setattr(tracer, "installed", lambda: True)
    monkeypatch.setattr(tracer, "_PROBE", "import os; os.abort()")
    with pytest.raises(ConfigError, match="libllvm19.*DRJIT_LIBLLVM_PATH"):
        trace_site("munich", tmp_path / "a.npz", 10)
    assert not list(tmp_path.iterdir())


def test_without_llvm_the_command_ends_in_one_line(tmp_path):
    # In a process of its own and for real: even looking for the module sionna.rt starts Dr.Jit.
    ran = subprocess.run(
        [sys.executable, "-m", "lwm.cli", "trace-site", "munich", "--receivers", "5", "--out", str(tmp_path / "a.npz")],
        env=os.environ | {"DRJIT_LIBLLVM_PATH": str(tmp_path / "libLLVM.so")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("lwm: error: ray tracing")
    assert ran.stderr.count("\n") == 1


def test_a_solve_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(tracer, "installed", lambda: True)
    monkeypatch.setattr(tracer, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(tracer, "PROBE_TIMEOUT_S", 0.5)
    with pytest.raises(ConfigError, match="took over 0.5 s"):
        tracer.require_tracer()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"receivers": 0}, ConfigError, "receivers 0; expected 1 to"),
        ({"receivers": 10**9}, ConfigError, "expected 1 to 100000"),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"carrier": float("nan")}, ConfigError, "carrier nan Hz"),
        ({"out": "a.txt"}, ConfigError, "ends in .npz"),
        ({"out": "full.npz"}, OutputError, "--overwrite"),
    ],
)
def test_settings_are_refused_before_anything_is_traced(monkeypatch, tmp_path, arguments, error, message):
    monkeypatch.setattr(trace, "require_tracer", lambda: pytest.fail("traced"))
    (tmp_path / "full.npz").write_bytes(b"mine")
    with pytest.raises(error, match=message):
        trace_site("munich", **{"out": tmp_path / "a.npz", **arguments, **_under(tmp_path, arguments)})
    assert (tmp_path / "full.npz").read_bytes() == b"mine"


def _under(folder, arguments):
    return {"out": folder / arguments["out"]} if "out" in arguments else {}


def test_an_unknown_scene_lists_those_that_exist(tmp_path):
    rt = SimpleNamespace(scene=SimpleNamespace(munich="/x/munich.xml", etoile="/x/etoile.xml", cube="/x/cube.ply"))
    with pytest.raises(ConfigError, match=r"\['etoile', 'munich'\]"):
        tracer.scene_file(rt, "atlantis")
    assert tracer.scene_file(rt, "munich") == "/x/munich.xml"
    (tmp_path / "mine.xml").write_text("<scene/>")
    assert tracer.scene_file(rt, str(tmp_path / "mine.xml")) == str(tmp_path / "mine.xml")


def test_terms_are_those_of_the_file_whatever_it_is_called(tmp_path):
    for name in ("munich", "cube"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.xml").write_text("<scene/>")
    shipped = {name: str(tmp_path / name / f"{name}.xml") for name in ("munich", "cube")}
    rt = SimpleNamespace(scene=SimpleNamespace(**shipped))
    (tmp_path / "link.xml").symlink_to(shipped["munich"])
    around = tmp_path / "cube" / ".." / "munich" / "munich.xml"
    for file in (tracer.scene_file(rt, "munich"), str(around), str(tmp_path / "link.xml")):
        assert trace.name_and_terms(rt, file) == ("munich", trace.OPENSTREETMAP_TERMS)
    assert trace.name_and_terms(rt, shipped["cube"]) == ("cube", trace.SIONNA_TERMS)
    (tmp_path / "munich.xml").write_text("<scene/>")
    name, terms = trace.name_and_terms(rt, str(tmp_path / "munich.xml"))
    assert name == "munich"
    assert terms["licence"].startswith("the scene's own terms")
    assert "Apache" not in terms["licence"]
    assert "ODbL" not in terms["licence"]


@pytest.fixture(scope="module")
def rt():
    try:
        return tracer.require_tracer()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_real_trace_follows_geometry_and_its_seed(rt, monkeypatch):
    monkeypatch.setattr(trace, "require_tracer", lambda: rt)
    settings = trace.TraceSettings(max_depth=2, samples_per_src=20_000, batch=20)
    tables = [trace.trace_table("simple_street_canyon", 30, seed, 3.5e9, settings) for seed in (0, 0, 1)]
    first, again, other = tables
    assert first.receivers == 30
    assert np.array_equal(first.receivers_m, again.receivers_m)
    assert first.delays_s == pytest.approx(again.delays_s, abs=1e-10)
    assert not np.array_equal(first.receivers_m, other.receivers_m)
    # The ground of this scene is level at -0.03 m, its roofs are above 20 m.
    assert np.abs(first.receivers_m[:, 2] - tracer.TERMINAL_M + 0.03).max() < 0.01
    assert first.transmitter_m[2] > 20 + tracer.MASTS_M[0]
    direct = np.repeat(np.arange(30), first.path_counts)[first.los]
    assert direct.size > 0
    assert first.delays_s[first.los] == pytest.approx(first.distances_m[direct] / 299_792_458, abs=1e-11)
    # The phase of the direct path is that of the carrier after its way.
    turns = first.delays_s[first.los] * 3.5e9
    assert np.abs(np.exp(1j * first.phases_rad[first.los]) - np.exp(-2j * np.pi * turns)).max() < 0.05


def test_a_traced_file_is_a_site(rt, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trace, "require_tracer", lambda: rt)
    monkeypatch.setattr(trace, "TraceSettings", lambda: _tiny_settings)
    out = tmp_path / "canyon.npz"
    table = trace_site("simple_street_canyon", out, 10)
    assert "10 receivers" in capsys.readouterr().out
    assert SiteDraw(str(out), 3).table.name == table.name == "simple_street_canyon"
    assert [path.name for path in tmp_path.iterdir()] == ["canyon.npz"]
    assert table.provenance["licence"] == "Apache-2.0"


_tiny_settings = trace.TraceSettings(max_depth=1, samples_per_src=10_000, batch=10)


def test_the_tracer_is_not_imported_with_the_package():
    code = "import lwm.channel.sites, sys; sys.exit(bool({'sionna', 'mitsuba', 'drjit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
