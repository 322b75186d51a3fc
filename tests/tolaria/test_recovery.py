"""The guard over the loss, the states to go back to, and what a run does about trouble."""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.checkpoint_file import UnreadableCheckpointError
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.loss_guard import EXPLODED, LASTING_STEPS, LossGuard
from esper_async.tolaria.recovery import Recovery, times_stuck
from esper_async.tolaria.state_copy import Outline
from esper_async.tolaria.task import Task
from esper_async.tolaria.training import LossError
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, listed
from tests.tolaria.test_engine import Script, kinds, options, run, weights

# -- the guard -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_fires_at_once(loss: float) -> None:
    guard = LossGuard()
    assert guard.look(1.0) is None
    assert guard.look(loss) == f"the training loss is {loss}"


def test_a_loss_far_over_its_level_fires_when_it_lasts() -> None:
    guard = LossGuard()
    for _ in range(20):
        assert guard.look(2.0) is None
    found = [guard.look(2.1 * EXPLODED) for _ in range(LASTING_STEPS)]
    assert found[:-1] == [None] * (LASTING_STEPS - 1)
    assert found[-1] is not None
    assert "over 15 times its level (2) 3 times in a row" in found[-1]


def test_one_batch_of_outliers_is_no_explosion() -> None:
    guard = LossGuard()
    for number in range(60):
        assert guard.look(1e4 if number % 3 == 2 else 2.0) is None


def test_a_loss_that_is_almost_zero_may_rise_to_a_tenth_of_the_first() -> None:
    guard = LossGuard()
    for _ in range(900):
        guard.look(2.0 if guard.state_dict()["first"] is None else 1e-6)
    assert [guard.look(2.0) for _ in range(10)] == [None] * 10


@given(st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=40), st.floats(0.1, 10.0))
def test_losses_within_a_band_never_fire_wherever_it_lies(
    losses: list[float], width: float
) -> None:
    guard = LossGuard()
    lowest = 2.0 * width
    assert all(guard.look(lowest + width * abs(loss) / 100.0) is None for loss in losses)


@given(st.lists(st.floats(0.01, 1e6), max_size=30), st.lists(st.floats(0.01, 1e6), max_size=30))
def test_a_restored_guard_goes_on_as_the_saved_one(before: list[float], after: list[float]) -> None:
    one, other = LossGuard(), LossGuard()
    for loss in before:
        one.look(loss)
    other.load_state_dict(one.state_dict())
    assert [one.look(loss) for loss in after] == [other.look(loss) for loss in after]


# -- the states ------------------------------------------------------------------------------------


def state(value: float, size: int = 4) -> dict[str, Any]:
    return {"weights": torch.full((size,), float(value)), "steps": int(value)}


def test_what_is_kept_is_the_state_of_that_instant_and_stays_so(tmp_path: Path) -> None:
    living = state(1.0)
    recovery = Recovery(CheckpointStore(tmp_path), in_memory=1)
    recovery.save(1, lambda: living)
    living["weights"].fill_(9.0)
    way = recovery.before(2)
    assert way is not None
    assert way.source == "memory"
    assert torch.equal(way.state["weights"], torch.ones(4))
    recovery.wait()
    loaded = CheckpointStore(tmp_path).load_latest()
    assert loaded is not None
    assert torch.equal(loaded[1]["weights"], torch.ones(4))


def test_memory_holds_the_newest_and_the_disk_older_ones(tmp_path: Path) -> None:
    recovery = Recovery(CheckpointStore(tmp_path), in_memory=1)
    for step in (10, 20):
        recovery.save(step, lambda step=step: state(step))  # type: ignore[misc]
    sources = {step: recovery.before(step) for step in (10, 11, 20, 21)}
    assert sources[10] is None
    found = [(way.state["steps"], way.source) for way in sources.values() if way is not None]
    assert found == [(10, "disk"), (10, "disk"), (20, "memory")]

    recovery.drop_after(10)
    assert recovery.before(10**9) is not None
    assert recovery.bytes_in_memory == 0
    assert recovery.boundaries([{"step": 10, "boundary": 1}]) == [1]


def test_memory_is_bounded_in_bytes_and_the_bound_is_kept() -> None:
    each = state(0.0)["weights"].nbytes
    recovery = Recovery(None, in_memory=5, budget_bytes=3 * each)
    for step in range(1, 8):
        recovery.save(step, lambda step=step: state(step))  # type: ignore[misc]
        assert recovery.bytes_in_memory == min(step, 3) * each
    assert recovery.before(5) is None
    assert recovery.before(6) is not None
    big = Recovery(None, in_memory=5, budget_bytes=each - 1)
    big.save(1, lambda: state(1.0))
    assert big.before(2) is None


def test_only_rollbacks_that_got_no_farther_count_as_stuck() -> None:
    def at(*boundaries: int) -> list[dict[str, Any]]:
        return [{"boundary": boundary} for boundary in boundaries]

    assert times_stuck([], 3) == 0
    assert times_stuck(at(3), 3) == 1
    assert times_stuck(at(3, 3), 2) == 2
    assert times_stuck(at(3), 4) == 0
    assert times_stuck(at(3, 5), 4) == 1


# -- a run -----------------------------------------------------------------------------------------


class Tripwire:
    """A task whose training loss is spoilt while the learning rate is over a limit.

    The rate rises by its first value each boundary, so that trouble comes in the epoch after
    boundary `limit - 1`; at half the rate it does not come within twice as many.
    """

    def __init__(self, limit: float, spoil: float = math.nan) -> None:
        self._limit = 1e-2 * (limit - 0.5)
        self._spoil = spoil
        self._optimizer: torch.optim.Optimizer | None = None

    def task(self, **changes: Any) -> Task:
        return listed(loss=self._loss, optimizer=self._make, scheduler=_rising, **changes)

    def _make(self, parameters: Any) -> torch.optim.Optimizer:
        self._optimizer = torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)
        return self._optimizer

    def _loss(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        loss = F.cross_entropy(output, target, reduction=reduction)
        assert self._optimizer is not None
        high = self._optimizer.param_groups[0]["lr"] > self._limit
        return loss * self._spoil if high and torch.is_grad_enabled() else loss


def _rising(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda boundary: 1.0 + boundary)


def tripped(folder: Path | None = None, limit: float = 4, **changes: Any) -> Any:
    spoil = changes.pop("spoil", math.nan)
    settings = {"policy": "static", "epochs": 6, **changes}
    return run(Tripwire(limit, spoil).task(), folder, **settings)


@pytest.mark.parametrize("spoil", [math.nan, 1e3])
@pytest.mark.parametrize(
    ("kept", "in_memory", "source"), [(0, 1, "memory"), (1, 1, "memory"), (1, 0, "disk")]
)
def test_trouble_without_a_seed_on_trial_sends_the_run_back_and_on_at_half_the_rate(
    tmp_path: Path, spoil: float, kept: int, in_memory: int, source: str
) -> None:
    outcome, records = tripped(
        tmp_path if kept else None, spoil=spoil, in_memory=in_memory, epochs=6
    )
    (rollback,) = kinds(records, "rollback")
    (emergency,) = kinds(records, "emergency")
    assert (emergency["level"], rollback["source"], rollback["cause"]) == (
        "SEVERE",
        source,
        "guard",
    )
    assert (rollback["boundary"], rollback["to_boundary"], rollback["rate_factor"]) == (3, 3, 0.5)
    assert outcome.state == "completed"
    assert [entry["boundary"] for entry in outcome.history] == [1, 2, 3, 4, 5, 6]
    rates = [record["learning_rate"] for record in kinds(records, "boundary")]
    assert rates == pytest.approx([2e-2, 3e-2, 4e-2, 2.5e-2, 3e-2, 3.5e-2])


def test_trouble_that_comes_back_escalates_and_then_stops_the_run(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    with pytest.raises(LossError) as failure:
        run_until_failure(tmp_path, records)
    assert [r["level"] for r in kinds(records, "emergency")] == ["SEVERE", "MAJOR"]
    found = [(r["to_boundary"], r["source"], r["rate_factor"]) for r in kinds(records, "rollback")]
    assert found == [(2, "memory", 0.5), (1, "disk", 0.25)]
    assert "the run went back to boundary 2 and 1 and on at 0.25 of the learning rate" in str(
        failure.value
    )


def run_until_failure(folder: Path, records: list[dict[str, Any]]) -> None:
    calls: list[int] = []

    def loss(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        calls.append(torch.is_grad_enabled())
        value = F.cross_entropy(output, target, reduction=reduction)
        return value * math.nan if sum(calls) > 10 and torch.is_grad_enabled() else value

    engine = Engine(
        listed(loss=loss),
        options(policy="static"),
        folder=folder,
        listener=lambda record: records.append(dict(record)),
    )
    with closing(engine):
        engine.run()


class _KilledError(BaseException):
    """Stands for a SIGKILL: no `except Exception` sees it."""


def dies(*_: Any, **__: Any) -> None:
    raise _KilledError


@pytest.mark.parametrize(
    "place",
    [
        (Recovery, "drop_after"),
        (Grower, "ungrow"),
        (Grower, "slow_down"),
    ],
)
def test_a_process_killed_while_it_goes_back_ends_as_if_it_had_not_been(
    tmp_path: Path, place: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = tripped(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(*place, dies)
        with pytest.raises(_KilledError):
            tripped(tmp_path / "cut")
    rest, _ = tripped(tmp_path / "cut")
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []


@pytest.mark.parametrize("cut", [13, 15, 18])
def test_a_run_drained_after_it_went_back_goes_on_bitwise(tmp_path: Path, cut: int) -> None:
    whole, _ = tripped(tmp_path / "whole")
    drained, _ = tripped(tmp_path / "cut", control=Script({cut: [Steer("drain")]}))
    assert drained.state == "drained"
    rest, _ = tripped(tmp_path / "cut")
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []


class Watched(Script):
    """Goes back twice, and keeps what the run was then and what it came from."""

    def __init__(self, step: int) -> None:
        super().__init__({step: [Steer("rollback")]})
        self.again = {step: [Steer("rollback")]}
        self.kept: list[Any] = []
        self.living: list[Any] = []

    def went_back(self, engine: Engine) -> None:
        (kept,) = (each.copied.state for each in engine._recovery._ring._states)
        self.kept.append(_relevant(kept))
        self.living.append(_relevant(engine._state()))
        self.steers, self.again = self.again, {}


def _relevant(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of what the rest of a run depends on, times left out."""
    parts = ("grower", "random", "chronicle", "history", "loss_guard", "steps", "boundary")
    loader = {name: state["loader"][name] for name in ("epoch", "batch", "generators")}
    return Outline({**{part: state[part] for part in parts}, "loader": loader}).copy().state


@pytest.mark.parametrize("step", [14, 22, 26, 34])
def test_a_rollback_brings_all_back_and_what_it_came_from_stays_whole(step: int) -> None:
    """With seeds in shadow, in the ramp, on trial and kept; `step` is in the middle of an epoch."""
    control = Watched(step)
    engine = Engine(listed(), options(), control=control, blueprints=BLUEPRINTS)
    whole = engine._go_back

    def go_back(*arguments: Any, **how: Any) -> None:
        whole(*arguments, **how)
        control.went_back(engine)

    engine._go_back = go_back  # type: ignore[method-assign]
    with closing(engine):
        engine.run()
    assert len(control.living) == 2
    for living in control.living:
        assert differing(control.kept[0], living) == []
    assert differing(control.kept[0], control.kept[1]) == []


def test_an_operators_rollback_leaves_the_rate_alone(tmp_path: Path) -> None:
    _, records = run(listed(), tmp_path, Script({10: [Steer("rollback")]}), policy="static")
    (rollback,) = kinds(records, "rollback")
    assert (rollback["cause"], rollback["source"], rollback["rate_factor"]) == (
        "operator",
        "memory",
        1.0,
    )


def test_a_run_keeps_as_much_on_disk_and_in_memory_as_it_was_told(tmp_path: Path) -> None:
    _, records = run(
        listed(),
        tmp_path,
        Script({14: [Steer("rollback")]}),
        policy="static",
        checkpoints_kept=3,
        in_memory=4,
        in_memory_bytes=0,
    )
    assert len(CheckpointStore(tmp_path / "checkpoints", kept=9).steps()) == 3
    assert [record["source"] for record in kinds(records, "rollback")] == ["disk"]
    assert {record["memory_bytes"] for record in kinds(records, "checkpoint")} == {0}


def test_what_the_states_in_memory_take_is_told_with_each_checkpoint(tmp_path: Path) -> None:
    _, records = run(listed(), tmp_path, policy="static", in_memory=2)
    told = [record["memory_bytes"] for record in kinds(records, "checkpoint")]
    assert told[0] == told[-1] > 0, "two of a size that does not change"
    assert all(record["copy_ms"] > 0 for record in kinds(records, "checkpoint"))


def test_a_run_whose_checkpoint_is_of_another_format_is_not_trained(tmp_path: Path) -> None:
    run(listed(), tmp_path, Script({6: [Steer("drain")]}), policy="static")
    (manifest, *_) = sorted((tmp_path / "checkpoints").glob("*.json"), reverse=True)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(UnreadableCheckpointError, match="format 1"):
        run(listed(), tmp_path, policy="static")
    assert (tmp_path / "journal.jsonl").read_bytes() == before
