"""Checkpoints: whole or not there, the newest whole one is read, damage is noticed."""

import hashlib
import json
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from esper_async.tolaria import checkpoint_file, pace
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.checkpoint_file import (
    FORMAT,
    PIECE_BYTES,
    CheckpointError,
    UnreadableCheckpointError,
)
from esper_async.tolaria.pace import LEAST_WORK_S, REST, Pace


def saved(folder: Path, *steps: int, kept: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, kept=kept)
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


@pytest.mark.parametrize("kept", [1, 3])
def test_so_many_are_kept_as_were_asked_for(tmp_path: Path, kept: int) -> None:
    store = saved(tmp_path, 1, 2, 3, 4, kept=kept)
    assert store.steps() == [1, 2, 3, 4][-kept:]
    assert len(list(tmp_path.iterdir())) == 2 * kept


def test_a_rollback_finds_only_what_is_kept_though_a_crash_left_more(tmp_path: Path) -> None:
    """Else it would depend on where the process was killed."""
    saved(tmp_path, 1, 2, 3, kept=3)
    store = CheckpointStore(tmp_path, kept=2)
    assert store.steps() == [2, 3]
    assert store.load_before(2) is None
    assert loaded(tmp_path) == 3


def test_one_of_another_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "0000000002.json"
    manifest = {**json.loads(path.read_text()), "format": FORMAT + 1, "esper": "0.0.7"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UnreadableCheckpointError) as refusal:
        CheckpointStore(tmp_path).load_latest()
    said = str(refusal.value)
    assert str(tmp_path / "0000000002.pt") in said
    assert f"format {FORMAT + 1}, written by Esper 0.0.7" in said
    assert f"reads format {FORMAT}: go on with the version that wrote it" in said
    assert said.endswith("or train from the start, as a new run")


def test_one_that_is_written_anew_counts_until_the_new_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise OSError("the process dies here")

    store = saved(tmp_path, 1, kept=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write_json_atomically", die)
        store.save(1, {"step": 1, "weights": torch.full((4,), 9.0)})
        with pytest.raises(CheckpointError, match="dies here"):
            store.wait()
    assert loaded(tmp_path) == 1

    store.save(1, {"step": 1, "weights": torch.full((4,), 1.0), "again": True})
    store.wait()
    found = store.load_latest()
    assert found is not None
    assert found.state["again"]


def test_what_a_crash_left_half_written_is_gone_after_the_next_one(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for left in ("0000000002.pt", "0000000001-2.pt", ".0000000002.json.17.ab"):
        (tmp_path / left).write_bytes(b"half")
    saved(tmp_path, 3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["0000000001.json", "0000000001.pt", "0000000003.json", "0000000003.pt"]


def test_whoever_waits_for_a_write_makes_it_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "REST", 1e6)
    store = CheckpointStore(tmp_path)
    store._saved_at -= 60.0  # half of it is for rests
    store.save(1, {"step": 1, "weights": torch.ones(PIECE_BYTES)})
    assert store.is_writing
    begun = time.monotonic()
    assert store.steps() == [1]
    assert time.monotonic() - begun < 25.0
    assert not store.is_writing


def test_a_writer_rests_after_enough_work_and_not_for_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(Event, "wait", lambda _, timeout: rests.append(timeout))
    paced = Pace(0.1)
    for worked_s in (0.9 * LEAST_WORK_S, 0.1 * LEAST_WORK_S, 0.5 * LEAST_WORK_S, 60.0, 60.0):
        paced.worked(worked_s)
    assert rests == pytest.approx([REST * LEAST_WORK_S, 0.1 - REST * LEAST_WORK_S])


def vouch_for(path: Path, content: object, **changes: Any) -> None:
    """Put `content` at `path`, and have its manifest say that it is whole."""
    torch.save(content, path)
    manifest_path = path.with_suffix(".json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {**json.loads(manifest_path.read_text()), "sha256": digest, **changes}
    manifest_path.write_text(json.dumps(manifest))


def test_one_whose_tensors_were_saved_one_by_one_is_read(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    content = {"step": 1, "weights": torch.full((4,), 1.0)}
    vouch_for(tmp_path / "0000000001.pt", content, format=3)
    assert loaded(tmp_path) == 1


def test_one_of_the_format_before_is_read(tmp_path: Path) -> None:
    """The records of ended seeds were mappings in it."""
    saved(tmp_path, 1)
    manifest_path = tmp_path / "0000000001.json"
    manifest = {**json.loads(manifest_path.read_text()), "format": FORMAT - 1}
    manifest_path.write_text(json.dumps(manifest))
    assert loaded(tmp_path) == 1


@pytest.mark.parametrize(
    "places",
    [
        "",
        "{}",
        "[1]",
        '[["no_such_type", 0, 4, [1]]]',
        "[[null, 7, 0, []]]",
        '[["load", 0, 4, [1]]]',
    ],
)
def test_one_whose_tensors_are_nowhere_does_not_count(tmp_path: Path, places: str) -> None:
    saved(tmp_path, 1, 2)
    flat = torch.zeros(4, dtype=torch.uint8)
    content = {"tree": {"weights": "\0tensor 0"}, "places": places, "flat": flat, "own": []}
    vouch_for(tmp_path / "0000000002.pt", content)
    assert loaded(tmp_path) == 1
