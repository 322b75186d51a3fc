"""Checkpoints: whole or not there, the newest whole one is read, damage is noticed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from esper_async.tolaria.checkpoint import CheckpointError, CheckpointStore, snapshot


def saved(folder: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(folder)
    for step in steps:
        store.save(step, {"step": step, "weights": torch.full((4,), float(step))})
    store.wait()
    return store


def loaded(folder: Path) -> int:
    found = CheckpointStore(folder).load_latest()
    assert found is not None
    step, state = found
    assert state["step"] == step
    assert torch.equal(state["weights"], torch.full((4,), float(step)))
    return step


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).load_latest() is None


def test_the_newest_is_read_and_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 30, 400)
    assert loaded(tmp_path) == 400
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0000000030.json",
        "0000000030.pt",
        "0000000400.json",
        "0000000400.pt",
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, damage: Any) -> None:
    saved(tmp_path, 1, 2)
    damage(tmp_path / "0000000002.pt")
    assert loaded(tmp_path) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 99}'])
def test_a_manifest_that_is_none_does_not_count(tmp_path: Path, text: str) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "0000000002.json").write_text(text)
    assert loaded(tmp_path) == 1


def test_weights_without_their_manifest_do_not_count(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "0000000002.json").unlink()
    assert loaded(tmp_path) == 1


def test_when_every_one_is_damaged_it_says_so_and_does_not_start_anew(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for path in tmp_path.glob("*.pt"):
        cut(path)
    with pytest.raises(CheckpointError, match="damaged"):
        CheckpointStore(tmp_path).load_latest()


def test_a_damaged_one_does_not_crowd_out_whole_ones(tmp_path: Path) -> None:
    saved(tmp_path, 1, 50)
    cut(tmp_path / "0000000050.pt")
    store = CheckpointStore(tmp_path)
    store.load_latest()
    store.save(10, {"step": 10, "weights": torch.full((4,), 10.0)})
    store.save(20, {"step": 20, "weights": torch.full((4,), 20.0)})
    store.wait()
    flip(tmp_path / "0000000020.pt")
    assert loaded(tmp_path) == 10


def test_nothing_that_unpickles_code_is_read(tmp_path: Path) -> None:
    class Surprise:
        def __reduce__(self) -> Any:
            return (print, ("unpickled",))

    store = CheckpointStore(tmp_path)
    store.save(1, {"step": 1, "weights": torch.full((4,), 1.0)})
    store.save(2, {"surprise": Surprise()})
    store.wait()
    assert loaded(tmp_path) == 1


def test_a_write_that_fails_is_raised_by_the_next_call(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    store.save(1, {"step": 1})
    with pytest.raises(CheckpointError, match="could not be written"):
        store.wait()


def test_a_manifest_names_the_bytes_it_vouches_for(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    manifest = json.loads((tmp_path / "0000000007.json").read_text())
    assert manifest["size_bytes"] == (tmp_path / "0000000007.pt").stat().st_size
    assert manifest["torch"] == torch.__version__


def test_a_snapshot_shares_nothing() -> None:
    tensor = torch.zeros(2)
    copied = snapshot({"a": [tensor], "b": (tensor, 1)})
    tensor.fill_(1.0)
    assert float(copied["a"][0].sum()) == float(copied["b"][0].sum()) == 0.0
