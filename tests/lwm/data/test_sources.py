"""Which recordings are meant, tables of labels, and splits by recording."""

from collections import Counter
from pathlib import Path

import pytest

from lwm.data.sources import Source, assign_splits, find_sources, kind_of_sources, read_table, recording_name
from lwm.data.windows import span_labels
from lwm.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.cf32", "b.wav", "c.mat", "d.npz", "e.csv", "f.txt", "g.sigmf-meta", "g.sigmf-data", "h.sigmf.gz"):
        (tmp_path / name).write_text("x\n")
    return tmp_path


def _named(paths: list[Path], **options: bool) -> list[str]:
    return [source.path.name for source in find_sources([str(path) for path in paths], **options)]


def test_a_datatype_takes_raw_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ("notes.txt", "a.sigmf-meta", "a.sigmf-data", "b.npy", "c.wav", "d.h5", "README.md", "e.csv", "p.png")
    for name in ("x.dat", "y", "z.cf32", "2.4GHz_0", *other):
        (tmp_path / name).write_text("x\n")
    assert _named([tmp_path], any_suffix=True) == ["2.4GHz_0", "x.dat", "y", "z.cf32"]
    said = capsys.readouterr().out
    assert "9 files of" in said
    assert ".txt" in said
    assert ".sigmf-meta" in said
    assert _named([tmp_path / "c.wav"], any_suffix=True) == ["c.wav"], "what is named itself is taken"


def test_deeper_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.cf32", "cat/b.cf32", "cat/old/c.cf32", "cat/old/1/d.cf32", "cat/old/notes.txt", ".git/e.cf32"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert _named([tmp_path]) == ["a.cf32", "b.cf32"]
    assert f"2 recordings in folders under {tmp_path / 'cat'} were passed over" in capsys.readouterr().out


def test_what_is_named_twice_is_taken_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sub").mkdir()
    (folder / "link.cf32").symlink_to(folder / "a.cf32")
    paths = [folder / "a.cf32", folder / "sub" / ".." / "a.cf32", folder / "link.cf32", folder / "b.wav"]
    assert _named([*paths, folder / "g.sigmf-meta", folder / "g.sigmf-data"]) == ["a.cf32", "b.wav", "g.sigmf-meta"]
    assert "3 of 6 recordings were named before" in capsys.readouterr().out
    table = _table(folder, "file,animal\na.cf32,cat\n")
    with pytest.raises(ConfigError, match=r"a\.cf32 is named twice, with labels .*cat"):
        find_sources([str(table), str(folder / "a.cf32")])


def test_names_without_known_endings_only() -> None:
    names = ["2.4GHz_0.cf32", "2.4GHz_1.cf32", "a.sigmf-meta", "A.SIGMF.GZ", "b.csi.npz", "c.dat", ".cf32", "d"]
    found = [recording_name(Path("x") / name) for name in names]
    assert found == ["2.4GHz_0", "2.4GHz_1", "a", "A", "b.csi", "c.dat", ".cf32", "d"]


def _table(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def test_kinds_by_file_type(folder: Path) -> None:
    def names(kind: str) -> list[str]:
        return [source.path.name for source in find_sources([str(folder)], kind)]

    assert names("iq") == ["a.cf32", "b.wav", "c.mat", "g.sigmf-meta", "h.sigmf.gz"]
    assert names("csi") == ["c.mat", "d.npz", "e.csv"]
    assert names("auto") == ["a.cf32", "b.wav", "c.mat", "d.npz", "e.csv", "g.sigmf-meta", "h.sigmf.gz"]
    with pytest.raises(ConfigError, match=r"d\.npz is CSI and .*a\.cf32 is not"):
        kind_of_sources(find_sources([str(folder)]), "auto")
    assert kind_of_sources([Source(folder / "d.npz")], "auto") == "csi"
    assert kind_of_sources([Source(folder / "c.mat")], "auto") == "iq"
    assert kind_of_sources([Source(folder / "c.mat")], "csi") == "csi"


def test_table_of_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "file,start,stop,technology,room\na.cf32,,,lora,\nb.wav,0,1.5,wlan,1\nb.wav,1.5,,ble,2\n\ng,,,lte,3\n"
    text += "a.cf32,,,,4\n"
    sources = find_sources([str(_table(folder, text))])
    assert [source.path.name for source in sources] == ["a.cf32", "b.wav", "g"]
    assert sources[0].labels == {"technology": "lora", "room": "4"}
    assert sources[1].labels == {}
    assert [(span.start, span.stop, span.line) for span in sources[1].spans] == [(0.0, 1.5, 3), (1.5, None, 4)]
    assert span_labels(sources[1], 0.9, 1.0) == {"technology": "wlan", "room": "1"}
    assert span_labels(sources[1], 1.1, 1.0) == {"technology": "ble", "room": "2"}
    assert span_labels(sources[0], 5.0, 1.0) == sources[0].labels
    listed = [source.path.name for source in find_sources([str(folder)])]
    assert "labels.csv" not in listed
    assert "labels.csv is a table of labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.cf32,x\nnothing.cf32,y\n", r"labels\.csv, line 3: no file 'nothing\.cf32'"),
        ("file,label\na.cf32\n", r"line 2: 1 columns; expected 2: file, label"),
        ("file,start,stop,label\na.cf32,2,1,x\n", "line 2: start '2', stop '1'; expected seconds"),
        ("file,start,stop,label\na.cf32,-1,,x\n", "line 2: start '-1'"),
        ("file,start,stop,label\na.cf32,a,,x\n", "line 2: start 'a'"),
        ("file,label\na.cf32,x\nb.wav,y\na.cf32,z\n", "line 4: label of a.cf32 is 'z' here and 'x' above"),
        ("file,start,stop\na.cf32,0,1\n", "at least one label"),
        ("file,a/b\na.cf32,0\n", "at least one label"),
        ("file,x,x\na.cf32,0,1\n", "each once"),
        ("file,x\n", "holds no row"),
        ("file,x,spectrogram,valid\na.cf32,1,2,3\n", r"csv, line 1: columns \['spectrogram', 'valid'\].*rename the"),
        ("file,x\n,y\n", "line 2: no file ''"),
    ],
)
def test_wrong_rows_are_named(folder: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read_table(_table(folder, text))
    assert "\n" not in str(error.value)


def test_splits_share_out_every_class_and_keep_names_together() -> None:
    groups = [(f"{label}/{i:03d}", label) for label in "abcd" for i in range(50)]
    splits = assign_splits(groups, [0.8, 0.1, 0.1])
    assert Counter(splits) == {"train": 160, "validation": 20, "test": 20}
    for label in "abcd":
        mine = Counter(split for (_, other), split in zip(groups, splits, strict=True) if other == label)
        assert abs(mine["train"] - 40) <= 1
        assert min(mine.values()) >= 4
    shuffled = groups[::-1]
    assert assign_splits(shuffled, [0.8, 0.1, 0.1]) == splits[::-1]
    assert assign_splits(groups, [0.8, 0.1, 0.1], seed=1) != splits
    twice = assign_splits([*groups, *groups], [0.5, 0.25, 0.25])
    assert twice[:200] == twice[200:]


def test_shares_that_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for shares in ([0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.1, 0.1]):
        with pytest.raises(ConfigError, match="three shares"):
            assign_splits([("a", "")], shares)
    assert assign_splits([("a", "")], [0.8, 0.1, 0.1]) == ["train"]
    assert "no recording went to test: there are only 1" in capsys.readouterr().out
