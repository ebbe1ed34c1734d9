"""Model folders: a round trip through another process, and everything that must be refused."""

import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm import hub
from lwm.errors import ModelError, OutputError
from lwm.hub import check_model, from_pretrained, golden_input, load_strictly, save_pretrained
from lwm.hub_config import MIGRATIONS
from lwm.models.encoder import SpectrogramEncoder, build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.output import file_sha256
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")


def expert(name: str = "lte", seed: int = 1) -> SpectrogramEncoder:
    return build_encoder("tiny", RECIPE, -10, 8, name=name, seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pretrained(expert(), tmp_path / "lte", {"command": "a test", "metrics": {"val_loss": 0.25}})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def forget_hashes(folder: Path) -> None:
    """As a tamperer would who knows the hashes: only the golden output can tell."""
    files = {name: file_sha256(folder / name) for name in hub.CHECKED_FILES}
    edit(folder / "provenance.json", files=files)


def test_folder_is_complete_and_sound(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*hub.CHECKED_FILES, "provenance.json", "README.md"}
    assert check_model(folder) == []
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense:")
    assert "val_loss | 0.25" in card


def test_round_trip_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", golden_input(RECIPE))
    code = (
        "import lwm, numpy as np, torch, sys\n"
        f"model = lwm.from_pretrained({str(folder)!r})\n"
        f"x = torch.from_numpy(np.load({str(tmp_path / 'x.npy')!r}))\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, model(x).detach().numpy())\n"
        "assert model.name == 'lte' and model.recipe.name == 'small' and not model.training\n"
        "assert 'experts' not in sys.modules and 'heads' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = expert().eval()(torch.from_numpy(golden_input(RECIPE))).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-5)


def test_mixture_round_trip(tmp_path: Path) -> None:
    names = ("lte", "nr")
    mixture = MoEEncoder({n: expert(n, i) for i, n in enumerate(names)}, Router(RouterConfig(names), RECIPE, -10, 8))
    folder = save_pretrained(mixture, tmp_path / "moe")
    assert check_model(folder) == []
    again = from_pretrained(folder)
    x = torch.from_numpy(golden_input(RECIPE))
    with torch.no_grad():
        torch.testing.assert_close(again.golden(x), mixture.eval().golden(x))


class Tied(SpectrogramEncoder):
    """Both blocks are one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.blocks[1] = self.blocks[0]


def test_tied_weights_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "load", lambda group, name: Tied)
    model = Tied(expert().config, RECIPE)
    folder = save_pretrained(model, tmp_path / "tied")
    assert not any(name.startswith("blocks.1.") for name in load_file(folder / hub.WEIGHTS))
    assert check_model(folder) == []
    again = from_pretrained(folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_wrong_keys_are_all_listed() -> None:
    model = expert()
    weights = model.state_dict()
    weights["extra"] = weights.pop("norm.bias")
    weights["norm.weight"] = torch.ones(7)
    with pytest.raises(ModelError) as caught:
        load_strictly(model, weights, "here")
    for said in ("missing [norm.bias]", "unexpected [extra]", "norm.weight (7,) instead of (32,)"):
        assert said in str(caught.value)


def test_missing_key_in_the_file_is_refused(folder: Path) -> None:
    weights = load_file(folder / hub.WEIGHTS)
    del weights["norm.bias"]
    save_file(weights, folder / hub.WEIGHTS)
    with pytest.raises(ModelError, match="missing"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", hub.CHECKED_FILES)
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert any(name in problem and "SHA-256" in problem for problem in check_model(folder))


def test_changed_weights_are_found_by_the_golden_output(folder: Path) -> None:
    weights = load_file(folder / hub.WEIGHTS)
    weights["blocks.1.mlp.fc2.weight"] *= 1.1
    save_file(weights, folder / hub.WEIGHTS)
    forget_hashes(folder)
    (problem,) = check_model(folder)
    assert "golden.npz" in problem
    assert "off by" in problem


def test_truncated_and_missing_files_are_named(folder: Path) -> None:
    (folder / "golden.npz").write_bytes((folder / "golden.npz").read_bytes()[:100])
    forget_hashes(folder)
    assert "golden.npz cannot be read" in check_model(folder)[0]
    (folder / hub.WEIGHTS).write_bytes((folder / hub.WEIGHTS).read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        from_pretrained(folder)
    (folder / hub.WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model.safetensors is missing"):
        from_pretrained(folder)


def test_pickled_golden_is_never_unpickled(folder: Path) -> None:
    np.savez(folder / "golden.npz", input=np.array([{}], dtype=object), output=np.zeros(1))
    forget_hashes(folder)
    assert "golden.npz cannot be read" in check_model(folder)[0]


def test_configs_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", format_version=99)
    with pytest.raises(ModelError, match="format_version 99.*install a newer LWM"):
        from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        from_pretrained(folder)
    with pytest.raises(ModelError, match=r"config.json is missing"):
        from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_folder_that_is_not_empty_is_refused(folder: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        save_pretrained(expert(), folder)
    assert save_pretrained(expert("nr"), folder, overwrite=True) == folder
    assert from_pretrained(folder).name == "nr"


def test_weights_that_are_not_finite_leave_nothing_behind(tmp_path: Path) -> None:
    model = expert()
    model.norm.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match=r"norm\.weight is not finite"):
        save_pretrained(model, tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_hub_is_asked_for_a_name_and_its_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert all(any(fnmatch(one, pattern) for pattern in allow_patterns) for one in hub.CHECKED_FILES)
        assert not any(fnmatch("pytorch_model.bin", pattern) for pattern in allow_patterns)
        if name == "someone/none":
            raise OSError("offline\nsecond line")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert from_pretrained("someone/lte", revision="v1").name == "lte"
    assert asked == [("someone/lte", "v1")]
    with pytest.raises(ModelError, match="offline") as caught:
        from_pretrained("someone/none")
    assert "\n" not in str(caught.value)


class Hub:
    """A hub in memory with the two calls of ``huggingface_hub.HfApi`` that an upload makes."""

    kept: ClassVar[dict[str, dict[str, bytes]]] = {}

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        assert private
        assert exist_ok
        self.kept[repo_id] = {}
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
        names = [path.name for path in Path(folder_path).iterdir()]
        sent = {name for name in names if any(fnmatch(name, pattern) for pattern in allow_patterns)}
        self.kept[repo_id] = {name: (Path(folder_path) / name).read_bytes() for name in sent}


def test_push_and_load_again(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    import huggingface_hub

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        place = tmp_path / "cache"
        place.mkdir()
        for file, content in Hub.kept[name].items():
            (place / file).write_bytes(content)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (folder / ".env").write_text("my password")  # lies about in many folders; never sent
    with pytest.raises(ModelError, match=r"\.env is not listed"):
        hub.push_to_hub(folder, "me/lte", private=True)
    assert not Hub.kept
    (folder / ".env").unlink()
    assert hub.push_to_hub(folder, "me/lte", private=True) == "https://hub/me/lte"
    assert set(Hub.kept["me/lte"]) == {*hub.CHECKED_FILES, "provenance.json", "README.md"}
    torch.testing.assert_close(from_pretrained("me/lte").state_dict(), expert().state_dict())
    card = Hub.kept["me/lte"]["README.md"].decode()
    assert "| val_loss | 0.25 |" in card
    assert "| command | a test |" in card
    (folder / "recipe.json").unlink()
    Hub.kept.clear()
    with pytest.raises(ModelError, match="not sound"):
        hub.push_to_hub(folder, "me/lte")
    assert not Hub.kept


def test_refusal_of_an_upload_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    class Closed(Hub):
        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
            raise OSError("401\nUnauthorized")

    monkeypatch.setattr(huggingface_hub, "HfApi", Closed)
    with pytest.raises(ModelError, match="401 Unauthorized; log in with") as caught:
        hub.push_to_hub(folder, "me/lte")
    assert "\n" not in str(caught.value)


def test_folder_of_version_1_is_migrated(folder: Path) -> None:
    """Version 1 had no tolerances; its folders load and are checked, and are not written to."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "golden_tolerance"} | {"format_version": 1}
    (folder / "config.json").write_text(json.dumps(config))
    forget_hashes(folder)
    before = (folder / "config.json").read_bytes()
    assert check_model(folder) == []
    assert (folder / "config.json").read_bytes() == before
    read = hub.read_config(folder)
    assert read["format_version"] == hub.FORMAT_VERSION
    assert read["golden_tolerance"]["float32"] == hub.GOLDEN_TOLERANCE
    assert config["format_version"] == 1, "a migration does not change what it is given"


def test_every_older_version_has_its_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(1, hub.FORMAT_VERSION))
    for version, step in MIGRATIONS.items():
        assert step({"format_version": version, "type": "encoder", "model": {}})["format_version"] == version + 1


def test_bfloat16_has_a_tolerance_of_its_own(folder: Path) -> None:
    tolerance = hub.read_config(folder)["golden_tolerance"]
    assert tolerance["float32"] < tolerance["bfloat16"] < 0.5
    edit(folder / "config.json", golden_tolerance=tolerance | {"bfloat16": 1e-6})
    forget_hashes(folder)
    (problem,) = check_model(folder)
    assert "output in bfloat16 is off by" in problem


def test_tied_parameters_are_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules that share a parameter, as a language model's embedding and its output do."""

    class Twins(SpectrogramEncoder):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.blocks[1].mlp.fc1.weight = self.blocks[0].mlp.fc1.weight

    monkeypatch.setattr(hub, "load", lambda group, name: Twins)
    model = Twins(expert().config, RECIPE)
    again = from_pretrained(save_pretrained(model, tmp_path / "twins"))
    assert again.blocks[1].mlp.fc1.weight is again.blocks[0].mlp.fc1.weight
    assert len(list(again.parameters())) == len(list(model.parameters()))
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_tables_that_no_file_holds_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is computed by torch and not saved would be lost without memory, as a rotary table of an LLM."""

    class Rotary(SpectrogramEncoder):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("table", torch.arange(4.0), persistent=False)

    monkeypatch.setattr(hub, "load", lambda group, name: Rotary)
    model = Rotary(expert().config, RECIPE)
    model.patch_embed.requires_grad_(False)
    again = from_pretrained(save_pretrained(model, tmp_path / "rotary"))
    assert again.table.tolist() == [0, 1, 2, 3]
    assert not any(value.is_meta for value in (*again.parameters(), *again.buffers()))
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_loading_draws_nothing_and_weights_are_the_models_own(folder: Path) -> None:
    state = torch.random.get_rng_state()
    model = from_pretrained(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    (folder / hub.WEIGHTS).write_bytes(bytes((folder / hub.WEIGHTS).stat().st_size))  # in place
    torch.testing.assert_close(model.state_dict(), expert().state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_mixture_loaded_lazily(tmp_path: Path) -> None:
    names = ("lte", "nr")
    mixture = MoEEncoder({n: expert(n, i) for i, n in enumerate(names)}, Router(RouterConfig(names), RECIPE, -10, 8))
    folder = save_pretrained(mixture, tmp_path / "moe")
    lazy = from_pretrained(folder, mapped=True, lazy=True)
    x = torch.from_numpy(golden_input(RECIPE))
    with torch.no_grad():
        torch.testing.assert_close(lazy(x), mixture.eval()(x))
    with pytest.raises(ModelError, match="describes no moe.*unexpected keyword"):
        from_pretrained(folder, eager=True)
