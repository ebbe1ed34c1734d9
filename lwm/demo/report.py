"""The demo's page: one HTML file with its pictures inside, readable without a network."""

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from lwm import __version__
from lwm.console import say
from lwm.demo.state import DemoState
from lwm.output import atomic_file

OBJECTIVE = """Three quarters of the patches are hidden; the expert sees the rest and fills in the picture without
noise,
which synthetic data know. Each row: what it was given, what it saw, what it made of it, and the target."""


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _picture(name: str, png: bytes, text: str) -> dict[str, str]:
    return {"name": name, "data": _data_uri(png), "text": text}


def spectrogram_pictures(data: Path) -> list[dict[str, str]]:
    """One capture of each protocol with its emissions boxed."""
    from lwm.data.dataset import SpectrogramDataset
    from lwm.inspection import example_samples, sample_figure
    from lwm.signal.plot import png_bytes

    dataset = SpectrogramDataset(data, "test")
    pictures = []
    for name, index in example_samples(dataset).items():
        record = dataset.record(index)
        rate, snr = record["sample_rate"] / 1e6, record["snr_db"]
        text = f"{name}: {rate:g} Msamples/s, SNR {snr:g} dB, {record['mobility']}"
        pictures.append(_picture(name, png_bytes(sample_figure(dataset, index)), text))
    return pictures


def run_pictures(run: Path, text: str) -> list[dict[str, str]]:
    """The last pictures that a training run has drawn."""
    found = sorted((run / "figures").rglob("*.png"))
    return [_picture(path.stem, path.read_bytes(), f"{text}: {path.stem}") for path in found]


def fewshot_table(rows: list[dict[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
    """The values of k, and one row a model, best at the largest k first."""
    shots = sorted({row["k"] for row in rows})
    cells = {(row["model"], row["k"]): row for row in rows}
    best = {row["model"]: row["macro_f1_mean"] for row in rows if row["k"] == shots[-1]}
    order = sorted(best, key=lambda model: -best[model])
    return shots, [
        {
            "model": cells[model, shots[-1]].get("title", model),
            "cells": [
                f"{100 * cells[model, k]['macro_f1_mean']:.1f} ± {100 * cells[model, k]['macro_f1_std']:.1f}"
                for k in shots
            ],
        }
        for model in order
    ]


def write_report(out: Path, state: DemoState) -> Path:
    """Write ``OUT/index.html`` from the figures of the finished stages."""
    from jinja2 import Environment

    figures = state.figures
    shots, table = fewshot_table(figures["fewshot"])
    results = json.loads((out / "fewshot" / "results.json").read_text())
    experts = list(figures["pretrain"])
    environment = Environment(autoescape=True)
    template = environment.from_string((files("lwm.demo") / "report.html").read_text())
    page = template.render(
        version=__version__,
        settings=state.settings,
        objective=OBJECTIVE,
        percent=percent,
        spectrograms=spectrogram_pictures(out / "data"),
        reconstructions=[p for name in experts for p in run_pictures(out / "runs" / "experts" / name, name)],
        pretrain=figures["pretrain"],
        router=figures["router"],
        routing=[_picture(p.stem, p.read_bytes(), p.stem) for p in sorted((out / "routing").glob("*.png"))],
        shots=shots,
        fewshot=table,
        episodes=len({record["episode"] for record in results["records"]}),
        curves=[_picture(p.stem, p.read_bytes(), p.stem) for p in sorted((out / "fewshot").glob("*.png"))],
        rfgpt=figures["rfgpt"],
        recorded=figures["recorded"],
        stages=[{"name": name, "seconds": seconds} for name, seconds in state.seconds.items()],
        total=sum(state.seconds.values()),
    )
    with atomic_file(out / "index.html") as temporary:
        temporary.write_text(page)
    say(f"report: {len(page) / 1e6:.1f} MB")
    return out / "index.html"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f} %"
