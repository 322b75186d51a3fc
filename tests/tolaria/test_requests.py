"""What an operator was promised is done once, whatever dies in between."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esper_async.runtime.child_main import ChildLink, Request
from esper_async.runtime.journal import read_journal
from esper_async.tamiyo.picture import RunPicture
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.outcome import Outcome
from esper_async.tolaria.process import LinkControl
from esper_async.tolaria.requests import accept, accepted
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, shuffled
from tests.tolaria.test_engine import Script, options, weights

CULL = Steer("cull", seed="s1", request=1)
BACK = Steer("rollback", boundary=3, request=2)


class Killed(BaseException):
    """The training process dies here."""


class Mortal(Script):
    """Steers at given steps and dies at one of them."""

    def __init__(
        self, steers: dict[int, Sequence[Steer]] | None = None, *, dies_at: int | None = None
    ) -> None:
        super().__init__(steers)
        self.dies_at = dies_at

    def heartbeat(self, step: int, **progress: Any) -> None:
        super().heartbeat(step, **progress)
        if self.dies_at is not None and step >= self.dies_at:
            raise Killed


def live(folder: Path, control: Script) -> Outcome:
    """Train with a checkpoint at every third boundary, each of four steps."""
    engine = Engine(
        shuffled(),
        options(checkpoint_every=3),
        folder=folder,
        control=control,
        blueprints=BLUEPRINTS,
    )
    with closing(engine):
        return engine.run()


def told(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(folder / "journal.jsonl") if record["kind"] == kind]


def culls(folder: Path) -> list[tuple[int, int]]:
    operators = [r for r in told(folder, "decision") if r["policy"] == "operator"]
    return [(record["request"], record["boundary"]) for record in operators]


def test_an_accepted_request_is_on_disk_with_a_number(tmp_path: Path) -> None:
    assert accepted(tmp_path) == []
    assert accept(tmp_path, "cull", 1.0, seed="s1") == 1
    assert accept(tmp_path, "rollback", 2.0, to_boundary=3) == 2
    assert accept(tmp_path, "rollback", 3.0, to_boundary=None) == 3
    assert accepted(tmp_path) == [CULL, BACK, Steer("rollback", request=3)]


def test_a_training_process_takes_up_what_was_accepted_and_what_comes_over_its_link() -> None:
    class Link(ChildLink):
        frozen = False
        stop_requested = False
        arrived = (Request("cull", {"seed": "s2", "request": 3}),)

        def __init__(self) -> None:
            pass

        def requests(self) -> list[Request]:
            new, self.arrived = list(self.arrived), ()
            return new

    control = LinkControl(Link(), [CULL, BACK])
    assert list(control.poll()) == [CULL, BACK, Steer("cull", seed="s2", request=3)]
    assert list(control.poll()) == []


def test_a_cull_that_arrives_twice_is_carried_out_once(tmp_path: Path) -> None:
    live(tmp_path, Script({21: [CULL], 22: [CULL], 27: [CULL]}))
    assert culls(tmp_path) == [(1, 6)]
    assert told(tmp_path, "command_refused") == []


def test_a_cull_whose_process_died_first_is_carried_out_where_it_would_have_been(
    tmp_path: Path,
) -> None:
    """It is handed over again at once, but not carried out while earlier boundaries repeat."""
    whole = live(tmp_path / "whole", Script({22: [CULL]}))
    with pytest.raises(Killed):
        live(tmp_path / "cut", Mortal({22: [CULL]}, dies_at=23))
    assert culls(tmp_path / "cut") == []
    rest = live(tmp_path / "cut", Script({0: [CULL]}))
    assert [record["from_boundary"] for record in told(tmp_path / "cut", "resumed")] == [3]

    assert culls(tmp_path / "whole") == culls(tmp_path / "cut") == [(1, 6)]
    assert differing(weights(whole), weights(rest)) == []


def test_a_cull_that_was_carried_out_is_repeated_but_not_done_again(tmp_path: Path) -> None:
    whole = live(tmp_path / "whole", Script({18: [CULL]}))
    with pytest.raises(Killed):
        live(tmp_path / "cut", Mortal({18: [CULL]}, dies_at=23))
    rest = live(tmp_path / "cut", Script({0: [CULL]}))

    assert culls(tmp_path / "cut") == [(1, 5)]
    assert told(tmp_path / "cut", "command_refused") == []
    assert differing(weights(whole), weights(rest)) == []


def test_a_rollback_is_done_once_although_its_process_dies_after_it(tmp_path: Path) -> None:
    """Nor is what was decided before it repeated: the cull at boundary 5 was taken back."""
    steers: dict[int, Sequence[Steer]] = {18: [CULL], 30: [BACK]}
    whole = live(tmp_path / "whole", Script(dict(steers)))
    with pytest.raises(Killed):
        live(tmp_path / "cut", Backwards(steers, dies_at=14))
    rest = live(tmp_path / "cut", Script({0: [CULL, BACK]}))

    for folder in (tmp_path / "whole", tmp_path / "cut"):
        (back,) = told(folder, "rollback")
        assert (back["request"], back["to_boundary"], back["to_step"]) == (2, 3, 12)
        assert culls(folder) == [(1, 5)]
        after = [r["boundary"] for r in told(folder, "boundary") if r["seq"] > back["seq"]]
        assert after == list(range(4, 13))
    assert differing(weights(whole), weights(rest)) == []


def test_what_is_done_again_after_a_rollback_has_ids_of_its_own(tmp_path: Path) -> None:
    """Else its report would be taken for a repeat of the ABORTED one, and be lost."""
    outcome = live(tmp_path, Script({22: [CULL], 26: [BACK]}))
    reports, decisions = told(tmp_path, "field_report"), told(tmp_path, "decision")
    (back,) = told(tmp_path, "rollback")
    assert [r["outcome"] for r in reports if r["seq"] < back["seq"]].count("ABORTED") >= 1
    assert any(r["seq"] > back["seq"] for r in reports)
    assert len({r["report_id"] for r in reports}) == len(reports)
    assert len({r["command"]["id"] for r in decisions}) == len(decisions)
    assert {r["command_id"] for r in reports} <= {r["command"]["id"] for r in decisions}

    picture = RunPicture("run")
    for record in read_journal(tmp_path / "journal.jsonl"):
        picture.fold(record)
    assert len(picture.field_reports) == len(reports)
    assert len(picture.decisions) == len(decisions)
    assert outcome.state == "completed"


class Backwards(Mortal):
    """Dies at its step after the run has gone back to before it."""

    highest = 0

    def heartbeat(self, step: int, **progress: Any) -> None:
        self.highest = max(self.highest, step)
        if step < self.highest:
            super().heartbeat(step, **progress)
        else:
            self.step = step


def test_a_rollback_that_was_told_and_not_finished_is_finished_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = live(tmp_path / "whole", Script({30: [BACK]}))

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointStore, "drop_after", die)
        live(tmp_path / "cut", Script({30: [BACK]}))
    rest = live(tmp_path / "cut", Script({0: [BACK]}))

    assert [record["from_boundary"] for record in told(tmp_path / "cut", "resumed")] == [3]
    assert len(told(tmp_path / "cut", "rollback")) == 1
    assert differing(weights(whole), weights(rest)) == []


def test_what_was_asked_too_late_is_refused_by_number(tmp_path: Path) -> None:
    engine = Engine(
        shuffled(),
        options(),
        folder=tmp_path,
        control=Script({22: [CULL]}),
        blueprints=BLUEPRINTS,
    )
    with closing(engine):
        engine.run()
        engine.refuse_unmet([CULL, BACK])
    (refused,) = told(tmp_path, "command_refused")
    assert refused["request"] == 2
    assert "ended" in refused["reason"]


def test_a_cull_of_a_seed_that_is_not_there_is_refused_by_number(tmp_path: Path) -> None:
    live(tmp_path, Script({22: [Steer("cull", seed="s99", request=1)]}))
    (refused,) = told(tmp_path, "command_refused")
    assert (refused["request"], refused["boundary"]) == (1, 6)
    assert "s99" in refused["reason"]


def test_a_rollback_without_a_checkpoint_is_refused_by_number(tmp_path: Path) -> None:
    live(tmp_path, Script({3: [BACK], 5: [BACK]}))
    (refused,) = told(tmp_path, "command_refused")
    assert (refused["request"], refused["step"]) == (2, 3)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (2, "no rollback to boundary 2: no checkpoint is that old, the ones kept are of boundary "
            "3 and 6"),
        (9, "no rollback to boundary 9: the run has only come to boundary 7"),
    ],
)  # fmt: skip
def test_a_rollback_that_cannot_be_names_its_boundary_and_those_that_are_kept(
    asked: int, says: str, tmp_path: Path
) -> None:
    live(tmp_path, Script({30: [Steer("rollback", boundary=asked, request=1)]}))
    (refused,) = told(tmp_path, "command_refused")
    assert (refused["reason"], refused["request"]) == (says, 1)
    assert told(tmp_path, "rollback") == []


def test_a_rollback_asked_for_before_a_crash_may_name_a_boundary_that_repeats(
    tmp_path: Path,
) -> None:
    back = Steer("rollback", boundary=5, request=1)
    with pytest.raises(Killed):
        live(tmp_path, Mortal(dies_at=23))
    live(tmp_path, Script({13: [back]}))
    assert told(tmp_path, "command_refused") == []
    assert [record["to_boundary"] for record in told(tmp_path, "rollback")] == [3]
