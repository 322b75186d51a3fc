"""What a run does about an emergency that it is told of, at each level, whatever dies meanwhile."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esper_async.runtime.child_main import ChildLink, Request
from esper_async.tamiyo.picture import RunPicture
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.control import Steer
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.emergency_signal import is_answered, level_of, signal_of
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.messages import emergency_of, telemetry_of
from esper_async.tolaria.outcome import Outcome
from esper_async.tolaria.process import LinkControl
from esper_async.tolaria.recovery import Recovery
from esper_async.tolaria.requests import accept, accepted
from esper_async.tolaria.run_journal import RunJournal
from esper_async.tolaria.training import LossError
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, listed, shuffled
from tests.tolaria.test_engine import Script, kinds, options, run, weights
from tests.tolaria.test_requests import Killed, Mortal, told

WHY = "the loss curve has gone wild"


def raised(level: Level, request: int = 1) -> Steer:
    return Steer("emergency", level=level, reason=WHY, request=request)


def live(folder: Path, control: Script, **changes: Any) -> Outcome:
    """Train without growing; each boundary has four steps and a checkpoint, if not said."""
    settings = {"policy": "static", "epochs": 6, **changes}
    engine = Engine(listed(), options(**settings), folder=folder, control=control)
    with closing(engine):
        return engine.run()


def rates(folder: Path) -> list[float]:
    return [record["learning_rate"] for record in told(folder, "boundary")]


@pytest.mark.parametrize(
    ("level", "source", "factor"), [("SEVERE", "memory", 0.5), ("MAJOR", "disk", 0.25)]
)
def test_a_bad_emergency_sends_the_run_back_and_on_more_slowly(
    level: Level, source: str, factor: float, tmp_path: Path
) -> None:
    outcome = live(tmp_path, Script({10: [raised(level)]}))
    assert outcome.state == "completed"
    (back,) = told(tmp_path, "rollback")
    found = {name: back[name] for name in ("cause", "source", "to_step", "rate_factor", "request")}
    assert found == {
        "cause": "emergency", "source": source, "to_step": 8, "rate_factor": factor, "request": 1
    }  # fmt: skip
    assert WHY in back["reason"]
    (record,) = told(tmp_path, "emergency")
    assert (record["level"], record["by"], record["reason"]) == (level, "operator", WHY)
    undisturbed = live(tmp_path / "undisturbed", Script())
    assert undisturbed.state == "completed"
    expected = [rate * factor for rate in rates(tmp_path / "undisturbed")[2:]]
    assert rates(tmp_path)[2:] == pytest.approx(expected)


def test_a_major_one_takes_the_disks_word_although_memory_has_the_state(tmp_path: Path) -> None:
    """What is in memory may be what is wrong."""
    live(tmp_path, Script({10: [raised("MAJOR")]}), in_memory=3)
    assert [back["source"] for back in told(tmp_path, "rollback")] == ["disk"]
    outcome, records = run(
        listed(), None, Script({10: [raised("MAJOR")]}), policy="static", in_memory=3
    )
    assert outcome.state == "completed"
    assert [back["source"] for back in kinds(records, "rollback")] == ["memory"]  # nothing else


def test_a_minor_one_slows_the_run_down_at_the_next_boundary_and_is_told(tmp_path: Path) -> None:
    live(tmp_path, Script({10: [raised("MINOR")], 11: [raised("MINOR")]}))
    live(tmp_path / "undisturbed", Script())
    whole = rates(tmp_path / "undisturbed")
    assert rates(tmp_path) == pytest.approx([*whole[:2], *(rate / 2 for rate in whole[2:])])
    (record,) = told(tmp_path, "emergency")
    assert (record["level"], record["boundary"], record["request"]) == ("MINOR", 3, 1)
    assert told(tmp_path, "rollback") == []


def test_a_critical_one_is_journaled_and_holds_nothing_by_itself(tmp_path: Path) -> None:
    """The flag does: else a process that reads old requests would freeze with nobody to lift it."""
    control = Script({10: [raised("CRITICAL")]})
    live(tmp_path, control)
    assert control.waits == 0
    (record,) = told(tmp_path, "emergency")
    assert (record["level"], record["step"], record["request"]) == ("CRITICAL", 10, 1)


def test_emergencies_that_come_again_where_the_run_got_no_farther_escalate_and_stop_it(
    tmp_path: Path,
) -> None:
    steers = {10: [raised("SEVERE", 1)]}

    class Insisting(Script):
        """Tells of another one as soon as the last has sent the run back."""

        def heartbeat(self, step: int, **progress: Any) -> None:
            if step < self.step:
                self.steers[step + 1] = [raised("SEVERE", len(told(tmp_path, "rollback")) + 1)]
            super().heartbeat(step, **progress)

    with pytest.raises(
        LossError, match=r"went back to boundary 2 and 1 and on at 0\.25"
    ) as failure:
        live(tmp_path, Insisting(steers))
    assert WHY in str(failure.value)
    assert [record["level"] for record in told(tmp_path, "emergency")] == ["SEVERE", "MAJOR"]
    assert [back["to_boundary"] for back in told(tmp_path, "rollback")] == [2, 1]


def test_an_emergency_with_nowhere_to_go_back_to_is_refused_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    outcome = live(tmp_path, Script({2: [raised("SEVERE")]}))
    assert outcome.state == "completed"
    (refused,) = told(tmp_path, "command_refused")
    assert (refused["request"], refused["reason"]) == (
        1,
        "no rollback from boundary 0: there is no checkpoint yet",
    )


@pytest.mark.parametrize(
    ("level", "dies_at"), [("MINOR", 19), ("MINOR", 23), ("SEVERE", 23), ("MAJOR", 19)]
)
def test_an_emergency_is_answered_once_although_the_process_dies(
    level: Level, dies_at: int, tmp_path: Path
) -> None:
    """Before the next boundary, and after it; the rest is bitwise that of a run that lived."""

    def grown(folder: Path, control: Script) -> Outcome:
        settings = options(checkpoint_every=3)
        engine = Engine(shuffled(), settings, folder=folder, control=control, blueprints=BLUEPRINTS)
        with closing(engine):
            return engine.run()

    steers: dict[int, Sequence[Steer]] = {18: [raised(level)]}
    whole = grown(tmp_path / "whole", Script(dict(steers)))
    with pytest.raises(Killed):
        grown(tmp_path / "cut", Mortal(dict(steers), dies_at=dies_at))
    rest = grown(tmp_path / "cut", Script({0 if told_of(tmp_path / "cut") else 18: steers[18]}))
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        assert len(told_of(folder)) == 1
        assert len(told(folder, "rollback")) == (level != "MINOR")
    assert differing(weights(whole), weights(rest)) == []


def told_of(folder: Path) -> list[dict[str, Any]]:
    """The journal's word on the emergency: one that went back is met by its rollback."""
    return [r for kind in ("emergency", "rollback") for r in told(folder, kind) if r["request"]]


@pytest.mark.parametrize("place", ["drop_after", "wait"])
def test_a_process_that_dies_as_it_goes_back_finishes_it_in_its_next_life(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = live(tmp_path / "whole", Script({10: [raised("SEVERE")]}))

    def dies(*_: Any) -> None:
        raise Killed

    class Deadly(Script):
        def poll(self) -> Sequence[Steer]:
            steers = super().poll()
            if steers:
                patch.setattr(Recovery, place, dies)
            return steers

    with monkeypatch.context() as patch, pytest.raises(Killed):
        live(tmp_path / "cut", Deadly({10: [raised("SEVERE")]}))
    rest = live(tmp_path / "cut", Script({10: [raised("SEVERE")]}))
    assert len(told(tmp_path / "cut", "rollback")) == 1
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []


def test_an_accepted_emergency_is_on_disk_with_its_level(tmp_path: Path) -> None:
    assert accept(tmp_path, "emergency", 1.0, level="SEVERE", reason=WHY) == 1
    assert accepted(tmp_path) == [raised("SEVERE")]


# -- what is told ----------------------------------------------------------------------------------


def test_a_rate_that_somebody_else_changed_is_a_minor_emergency_once_a_boundary() -> None:
    records: list[dict[str, Any]] = []
    place = {"boundary": 1, "step": 4, "epoch": 1}
    journal = RunJournal("r", None, lambda record: records.append(dict(record)))
    chronicle = Chronicle(journal, lambda: place)
    chronicle.rate_restored("restored")
    chronicle.rate_restored("restored again")
    place["boundary"] = 2
    chronicle.rate_restored("restored once more")
    assert len(kinds(records, "rate_violation")) == 3
    assert [(r["level"], r["by"]) for r in kinds(records, "emergency")] == [("MINOR", "guard")] * 2
    assert not chronicle.asks_to_save()


def test_what_a_run_has_answered_goes_out_durably_as_its_own_word() -> None:
    record = {
        "seq": 7, "kind": "emergency", "time": 5.0, "run": "r-1", "boundary": 1, "step": 4,
        "epoch": 1, "level": "SEVERE", "reason": "the training loss is nan " * 50, "seed": None,
        "by": "guard", "request": None,
    }  # fmt: skip
    signal = emergency_of(record)
    assert (signal.signal_id, signal.run_id, level_of(signal)) == ("r-1/7", "r-1", "SEVERE")
    assert len(signal.reason) == 500
    assert is_answered(signal)
    packet = telemetry_of(record, loss_unit="nats")
    points = {(point.name, point.labels["level"], point.value) for point in packet.points}
    assert points == {("tolaria.emergency.count", "SEVERE", 1.0)}
    assert RunPicture("r-1").fold({**record, "seq": 1}).name == "APPLIED"


def test_only_a_runs_own_word_about_itself_counts_as_answered() -> None:
    def by(issuer: str, run: str) -> bool:
        return is_answered(signal_of(run, "CRITICAL", WHY, issued_by=issuer, issued_at=1.0))

    assert by("run r-1", "r-1")
    assert not by("run r-1", "r-2")
    assert not by("operator", "r-1")
    assert not by("run ", "")


def test_a_level_that_is_not_known_is_none() -> None:
    signal = signal_of("r", "MINOR", WHY, issued_by="x", issued_at=1.0)
    signal.level = 0
    assert level_of(signal) is None


# -- the flag --------------------------------------------------------------------------------------


class Link(ChildLink):
    """A link whose flag and requests a test sets."""

    frozen = False
    stop_requested = False

    def __init__(self) -> None:
        self.arrived: list[Request] = []

    def requests(self) -> list[Request]:
        new, self.arrived = self.arrived, []
        return new


def test_while_the_flag_is_up_no_request_lets_the_run_go_on() -> None:
    link = Link()
    control = LinkControl(link)
    link.frozen = True
    assert control.poll() == [Steer("pause")]
    link.arrived = [Request("pause"), Request("resume")]
    assert control.poll() == []
    link.frozen = False
    assert control.poll() == [Steer("resume")]


def test_a_pause_outlasts_the_flag() -> None:
    link = Link()
    control = LinkControl(link)
    link.arrived = [Request("pause")]
    assert control.poll() == [Steer("pause")]
    link.frozen = True
    assert control.poll() == []
    link.frozen = False
    assert control.poll() == []
    link.arrived = [Request("resume")]
    assert control.poll() == [Steer("resume")]
