"""Whatever can be asked about becomes the same picture as the recipe itself makes, or is refused with its reason."""

import gzip
import io
import json
import lzma
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lwm.data.shard import write_dataset
from lwm.errors import CaptureError, ConfigError, DatasetError, RecipeMismatch
from lwm.language.inputs import MOST_SAMPLES, spectrogram_of
from lwm.language.pictures import COLOUR_MAPS, picture_db
from lwm.seeding import rng_for
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import write_sigmf
from lwm.signal.plot import upright
from lwm.signal.recipe import Recipe, recipe_named

RATE = 1e6
SMALL = recipe_named("small")


def capture(seconds: float = 0.016, seed: int = 0) -> Capture:
    """Noise, and a tone at a quarter of the sample rate that starts half way."""
    count = round(seconds * RATE)
    noise = rng_for(seed, "noise").normal(size=(count, 2)) @ [1, 1j] * 0.05
    time = np.arange(count)
    tone = np.exp(0.5j * np.pi * time) * (time > count / 2)
    note = Emission("LTE", "downlink", start=seconds / 2, stop=seconds, low=2e5, high=3e5)
    return Capture((noise + tone).astype(np.complex64), RATE, emissions=[note])


def image_of(db: torch.Tensor, recipe: Recipe, name: str = "gray", kind: str = "PNG", enlarge: int = 1) -> bytes:
    """A picture of dB ``[F, T]`` drawn by matplotlib's colour map over the recipe's range, frequency upwards."""
    from matplotlib import colormaps

    level = (upright(db.numpy()[None], recipe)[::-1, :, 0] - recipe.floor_db) / (recipe.ceiling_db - recipe.floor_db)
    level = np.kron(level, np.ones((enlarge, enlarge)))
    pixels = (colormaps[name](level)[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 75} if kind == "JPEG" else {}))
    return buffer.getvalue()


def test_every_way_in_gives_the_recipes_own_picture(tmp_path: Path) -> None:
    given = capture()
    wanted = SMALL.of_capture(given).db
    np.save(tmp_path / "a.npy", given.iq)
    np.save(tmp_path / "db.npy", wanted[0].numpy())
    given.iq.tofile(tmp_path / "a.bin")
    write_sigmf(given, tmp_path / "a")
    raw = (tmp_path / "a.bin").read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, given.iq)
    ways = [
        spectrogram_of(given, SMALL),
        spectrogram_of(given.iq, SMALL, sample_rate=RATE),
        spectrogram_of(torch.from_numpy(given.iq), SMALL, sample_rate=RATE),
        spectrogram_of(wanted, SMALL, sample_rate=RATE),
        spectrogram_of(wanted[0, 0], SMALL, sample_rate=RATE),
        spectrogram_of(tmp_path / "a.npy", SMALL, sample_rate=RATE),
        spectrogram_of(str(tmp_path / "db.npy"), SMALL, sample_rate=RATE),
        spectrogram_of(tmp_path / "a.bin", SMALL, sample_rate=RATE, datatype="cf32_le"),
        spectrogram_of(tmp_path / "a.sigmf-meta", SMALL),
        spectrogram_of(raw, SMALL, sample_rate=RATE, datatype="cf32_le"),
        spectrogram_of(buffer.getvalue(), SMALL, sample_rate=RATE),
    ]
    for seen in ways:
        assert torch.equal(seen.db, wanted)
        assert seen.sample_rate == RATE
        assert seen.duration == pytest.approx(0.016)
    assert ways[8].annotations[0].technology == "LTE"


def test_a_long_recording_is_seen_in_its_first_window_or_in_several() -> None:
    given = capture(0.064)
    assert torch.equal(spectrogram_of(given, SMALL).db, SMALL.of_capture(given).db)
    several = spectrogram_of(given, SMALL, most=2).db
    assert torch.equal(several, torch.cat([SMALL.of_capture(given).db, SMALL.of_capture(given, 0.048).db]))


def test_a_row_of_a_shard_is_the_picture_that_it_holds(tmp_path: Path) -> None:
    picture = rng_for(0, "rows").uniform(-20, 20, (3, 1, 64, 64)).astype(np.float32)
    records = [{"sample_rate": 2e6, "duration": 0.016, "emissions": [], "facts": {}}] * 3
    write_dataset(tmp_path, picture, SMALL, {"technology": ["a"] * 3}, split="test", records=records)
    seen = spectrogram_of(f"{tmp_path}:1", SMALL)
    np.testing.assert_allclose(seen.db[0], picture[1], atol=0.05)
    assert seen.sample_rate == 2e6
    with pytest.raises(DatasetError, match="0 to 2"):
        spectrogram_of(f"{tmp_path}:3", SMALL)
    with pytest.raises(RecipeMismatch, match="lwm"):
        spectrogram_of(f"{tmp_path}:1", recipe_named("lwm"))
    with pytest.raises(CaptureError, match=":0"):
        spectrogram_of(tmp_path, SMALL)


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_a_picture_in_a_known_colour_map_is_turned_back_to_db(name: str) -> None:
    db = SMALL.of_capture(capture()).db[0, 0]
    found = spectrogram_of(image_of(db, SMALL, name), SMALL)
    # A step of 255 is 0.31 dB; colour maps have places where two levels are one colour.
    assert float((found.db[0, 0] - db).abs().mean()) < 0.5
    assert found.sample_rate is None


def test_pictures_come_jpeg_coded_enlarged_and_from_any_order_of_axes(tmp_path: Path) -> None:
    turned = replace(SMALL, axes="time-frequency", fftshift=False, size=(32, 64))
    db = turned.of_capture(capture()).db[0, 0]
    (tmp_path / "a.png").write_bytes(image_of(db, turned, enlarge=3))
    assert float((spectrogram_of(tmp_path / "a.png", turned).db[0, 0] - db).abs().max()) <= 80 / 255  # one grey level
    db = SMALL.of_capture(capture()).db[0, 0]
    blurred = spectrogram_of(image_of(db, SMALL, "viridis", "JPEG", enlarge=4), SMALL).db[0, 0]
    assert float((blurred - db).abs().mean()) < 1.5
    colour = replace(SMALL, channels="viridis")
    same = spectrogram_of(image_of(db, SMALL, "gray"), colour).db
    assert float((same - colour.of_capture(capture()).db).abs().mean()) < 2


def test_a_picture_on_another_scale_is_refused_unless_its_ends_are_stated() -> None:
    db = SMALL.of_capture(capture()).db[0, 0]
    narrow = replace(SMALL, floor_db=-30.0, ceiling_db=20.0)
    drawn = image_of(db.clamp(-30, 20), narrow)
    with pytest.raises(CaptureError, match="mean power would be"):
        spectrogram_of(drawn, SMALL)
    # Only the distance counts: the picture is set to the recipe's power reference.
    for levels in ((-30.0, 20.0), (-90.0, -40.0)):
        found = picture_db(drawn, SMALL, levels)[0, 0]
        assert float((found - db.clamp(-30, 20)).abs().mean()) < 0.5
    with pytest.raises(ConfigError, match="rising"):
        picture_db(drawn, SMALL, (20.0, -30.0))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_no_spectrogram_is_refused_with_its_reason() -> None:
    rng = rng_for(0, "photo")
    slope = np.linspace(0, 255, 96)
    # Smooth patches of sky, grass and skin, as a photograph has them; and the same without colour.
    photo = np.stack([slope[:, None] + 0 * slope, 0 * slope[:, None] + slope, 255 - slope[:, None] + 0 * slope], -1)
    photo = np.clip(photo + rng.normal(0, 10, photo.shape), 0, 255).astype(np.uint8)
    with pytest.raises(CaptureError, match="of no known colour map"):
        spectrogram_of(_png(photo), SMALL)
    with pytest.raises(CaptureError, match="mean power would be"):
        spectrogram_of(_png(photo[..., 0]), SMALL)
    with pytest.raises(CaptureError, match="one colour"):
        spectrogram_of(_png(np.full((64, 64), 128, np.uint8)), SMALL)
    with pytest.raises(CaptureError, match="1000 x 64 pixels.*64 x 64"):
        spectrogram_of(_png(rng.integers(0, 255, (64, 1000)).astype(np.uint8)), SMALL)
    with pytest.raises(CaptureError, match="4 x 4 pixels"):
        spectrogram_of(_png(np.zeros((4, 4), np.uint8)), SMALL)
    with pytest.raises(CaptureError, match="at most"):
        spectrogram_of(_png(np.zeros((5000, 4000), np.uint8)), SMALL)
    clear = np.zeros((64, 64, 4), np.uint8)
    with pytest.raises(CaptureError, match="transparent"):
        spectrogram_of(_png(clear), SMALL)
    with pytest.raises(CaptureError, match="whole picture"):
        spectrogram_of(_png(photo)[:200], SMALL)


def test_a_figure_with_axes_is_refused() -> None:
    from lwm.signal.plot import png_bytes, spectrogram_figure

    with pytest.raises(CaptureError, match="cut axes, margins"):
        spectrogram_of(png_bytes(spectrogram_figure(capture(), SMALL, size=(4.0, 3.0))), SMALL)


def test_a_stated_sample_rate_decides_over_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled = replace(SMALL, sample_rate=RATE)
    for recipe, rates in ((SMALL, (1e11, 1e308, 60.0, 1e-300)), (resampled, (1e11, 1e308, 1e-300))):
        for rate in rates:
            with pytest.raises(CaptureError, match=r"the upload: a sample rate of .* Hz; expected .* to .* Hz"):
                spectrogram_of(bytes(4096), recipe, kind="iq", datatype="ci8", sample_rate=rate)
    most = MOST_SAMPLES / SMALL.duration
    with pytest.raises(CaptureError, match="a sample rate of"):
        spectrogram_of(capture().iq, SMALL, sample_rate=most * 1.001)
    # Of one window no list of all of them is made.
    monkeypatch.setattr("lwm.language.inputs.window_starts", None)
    slowest = SMALL.win_length / SMALL.duration
    assert spectrogram_of(bytes(1 << 16), SMALL, kind="iq", datatype="ci8", sample_rate=slowest).db.shape[0] == 1


def test_an_uploaded_archive_is_not_unpacked() -> None:
    meta = json.dumps({"global": {"core:datatype": "cf32_le", "core:sample_rate": RATE, "core:version": "1.0.0"}})
    sparse = io.BytesIO()
    with tarfile.open(fileobj=sparse, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a/a.sigmf-meta")
        member.size = len(meta)
        # The form 0.1 of GNU tar: 100 GB that take no place.
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**11)}
        archive.addfile(member, io.BytesIO(meta.encode()))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    for packed in (gzip.compress(plain.getvalue()), lzma.compress(plain.getvalue()), bytes(4096)):
        with pytest.raises(CaptureError, match="no uncompressed tar"):
            spectrogram_of(packed, SMALL, kind="sigmf")
    with pytest.raises(CaptureError, match="more than it does"):
        spectrogram_of(sparse.getvalue(), SMALL, kind="sigmf")


def test_bad_signals_are_refused_with_their_reason(tmp_path: Path) -> None:
    given = capture()
    with pytest.raises(CaptureError, match="sample rate"):
        spectrogram_of(given.iq, SMALL)
    broken = given.iq.copy()
    broken[100] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    for source in (broken, tmp_path / "nan.npy", (tmp_path / "nan.npy").read_bytes()):
        with pytest.raises(CaptureError, match="finite"):
            spectrogram_of(source, SMALL, sample_rate=RATE)
    with pytest.raises(CaptureError, match="at least 256 samples"):
        spectrogram_of(given.iq[:100], SMALL, sample_rate=RATE)
    with pytest.raises(CaptureError, match="finite ones from -40 to 40"):
        spectrogram_of(np.full((64, 64), np.nan), SMALL)
    with pytest.raises(CaptureError, match="finite ones from -40 to 40"):
        spectrogram_of(np.full((64, 64), 1e3), SMALL)
    with pytest.raises(CaptureError, match=r"\[1, 64, 64\]"):
        spectrogram_of(np.zeros((32, 64)), SMALL)
    with pytest.raises(CaptureError, match="unknown kind"):
        spectrogram_of(b"\x00" * 4096, SMALL)
    with pytest.raises(CaptureError, match="the upload"):
        spectrogram_of(b"\x93NUMPY\x01\x00nonsense", SMALL, sample_rate=RATE)
    with pytest.raises(CaptureError, match="no bytes"):
        spectrogram_of(b"", SMALL, kind="iq", datatype="cf32", sample_rate=RATE)
    with pytest.raises(ConfigError, match="kind 'pickle'"):
        spectrogram_of(b"x", SMALL, kind="pickle")
    with pytest.raises(CaptureError, match=r"no file.*a\.png"):
        spectrogram_of(tmp_path / "a.png", SMALL)
    with pytest.raises(ConfigError, match="0 windows"):
        spectrogram_of(given, SMALL, most=0)
    with pytest.raises(ConfigError, match="dict"):
        spectrogram_of({}, SMALL)
