"""What becomes of a run whose policy is late, raises, hangs, or whose file is no good?

The run must go on, do nothing at that boundary, say so, and come to its end.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import nn

from esper_async.kasmina.legal import MemoryStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.hosts import ConvHost, batches
from esper_async.tamiyo import policy_header
from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.errors import CorruptPolicyError, GraphMismatchError
from esper_async.tamiyo.graph.features import schema_digest
from esper_async.tamiyo.network import PolicyNetwork, policy_file
from esper_async.tamiyo.network.policy_file import load_policy, save_policy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.view import View
from esper_async.tolaria import deciding
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

AT = 4
"""The boundary at which the policy fails: the first at which it would act."""
_EPOCHS = 8
_HANG_S, _DEADLINE_S, _NEVER_S = 0.6, 0.1, 60.0
_GROWTH = GrowthOptions(dwell_steps=8, ramp_boundaries=1, window_boundaries=1)
Told = list[dict[str, Any]]


class Faulty:
    """The heuristic, which raises or does not come back at a boundary, so many times."""

    name: ClassVar[str] = "faulty"
    version: ClassVar[str] = "1"

    def __init__(self, *, raises: int = 0, hangs: int = 0) -> None:
        self.gate = threading.Event()
        self._inner = HeuristicPolicy(0)
        self._raises = raises
        self._hangs = hangs

    def decide(self, view: View) -> Decision:
        """Fail as told, then decide as the heuristic."""
        if view.boundary == AT and self._raises:
            self._raises -= 1
            raise RuntimeError("a fault of the policy")
        if view.boundary == AT and self._hangs:
            self._hangs -= 1
            self.gate.wait(_NEVER_S)
        return self._inner.decide(view)

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._inner.load_state_dict(state)


def measure(effort: Effort) -> list[Row]:
    """Let each fault happen to a run; count what is not as it must be."""
    rows = []
    for name, fault in _FAULTS.items():
        if wants(name):
            wrong = fault()
            note = "; ".join(wrong) or "the run went on, and said what was the matter"
            rows.append(judged(name, len(wrong), "faults", Bar("at most", 0), note=note))
    return rows


def _raising() -> list[str]:
    state, told = _run(Faulty(raises=1), deterministic=True)
    return [*_went_on(state, told), *_alarmed(told, "a fault of the policy")]


def _late() -> list[str]:
    state, told = _run(Faulty(hangs=1), deterministic=False)
    late = [r for r in told if r["kind"] == "decision_late" and not r["used"]]
    wrong = [] if late else ["no decision was called late"]
    return [*wrong, *_went_on(state, told), *_alarmed(told, "replaced by static")]


def _hanging_once() -> list[str]:
    state, told = _run(Faulty(hangs=1), deterministic=True)
    back = [r for r in told if r["kind"] == "rollback" and r["cause"] == "hang"]
    wrong = [] if len(back) == 1 else [f"{len(back)} rollbacks for a hang, not 1"]
    if _done_at(told) != "GERMINATE":
        wrong.append("what was decided after going back is not what a sound run decides")
    return [*wrong, *([] if state == "completed" else [f"the run ended as {state}"])]


def _hanging_twice() -> list[str]:
    state, told = _run(Faulty(hangs=2), deterministic=True)
    replaced_by = [r for r in told if r["kind"] == "controller_replaced"]
    wrong = [] if replaced_by and not replaced_by[0]["bitwise"] else ["not marked as non-bitwise"]
    return [*wrong, *_went_on(state, told), *_alarmed(told, "replaced by static")]


def _went_on(state: str, told: Told) -> list[str]:
    wrong = [] if state == "completed" else [f"the run ended as {state}"]
    done = _done_at(told)
    if done is not None:
        wrong.append(f"at the boundary of the fault: {done}")
    return wrong


def _alarmed(told: Told, words: str) -> list[str]:
    alarms = [r["reason"] for r in told if r["kind"] == "emergency"]
    return [] if any(words in reason for reason in alarms) else [f"no alert says {words!r}"]


def _done_at(told: Told) -> str | None:
    """Return the operation of the fault's boundary; words where nothing was decided there."""
    at = [r for r in told if r["kind"] == "decision" and r["boundary"] == AT]
    operation: str | None = at[-1]["command"]["operation"] if at else "nothing was decided"
    return operation


def _corrupt() -> list[str]:
    with TemporaryDirectory() as folder:
        path, other = Path(folder) / "some.policy", Path(folder) / "other.policy"
        save_policy(PolicyNetwork(), path, name="one", lineage={})
        save_policy(PolicyNetwork(), other, name="other", lineage={})
        header, _, _ = path.read_bytes().partition(b"\n")
        _, _, weights = other.read_bytes().partition(b"\n")
        path.write_bytes(header + b"\n" + weights)  # sound weights, but not the file's own
        return _refused(path, CorruptPolicyError)


def _mismatched() -> list[str]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "some.policy"
        with replaced(f"{policy_file.__name__}.schema_digest", lambda: "0" * 64):
            save_policy(PolicyNetwork(), path, name="old", lineage={})
        return _refused(path, GraphMismatchError)


def _refused(path: Path, wanted: type[Exception]) -> list[str]:
    try:
        load_policy(path)
    except wanted as error:
        return [] if str(path) in str(error) else ["the refusal does not name the file"]
    except Exception as error:  # noqa: BLE001 - what else it may be is the finding
        return [f"it raised {type(error).__name__}, not {wanted.__name__}"]
    return ["it was loaded"]


_FAULTS = {
    "policy raises": _raising,
    "policy is late where the clock may act": _late,
    "policy hangs once in a deterministic run": _hanging_once,
    "policy hangs twice in a deterministic run": _hanging_twice,
    "corrupt policy file": _corrupt,
    "policy of other features": _mismatched,
}


def _run(policy: Faulty, *, deterministic: bool) -> tuple[str, Told]:
    told: Told = []
    torch.manual_seed(0)
    patient = partial(deciding.Decider, deadline_s=_DEADLINE_S, hang_s=_HANG_S)
    with replaced("esper_async.tolaria.engine.Decider", patient):
        engine = Engine(
            Task(
                model=ConvHost(),
                train_loader=batches(4),
                validation_loader=batches(1, seed=1),
                loss=nn.functional.cross_entropy,
            ),
            RunOptions(
                epochs=_EPOCHS, policy=policy.name, deterministic=deterministic, threads=1,
                growth=_GROWTH,
            ),
            certificates=MemoryStore(),
            blueprints=["BP003"],
            policy=policy,
            listener=lambda record: told.append(dict(record)),
        )  # fmt: skip
        try:
            return engine.run().state, told
        except Exception as error:  # noqa: BLE001 - a run that ends so is the finding
            return f"{type(error).__name__}: {error}", told
        finally:
            policy.gate.set()
            engine.close()


def _lets_through(self: Any, policy: Any, view: View) -> Decision:
    decision: Decision = policy.decide(view)
    return decision


def _silent(self: Any, *given: Any, **named: Any) -> None:
    return


def _unchecked(payload: bytes) -> str:
    return _claimed[0]


_claimed = [""]
_whole_header = policy_header._parsed


@contextmanager
def _no_checksum() -> Iterator[None]:
    def header(name: str, line: bytes) -> Any:
        found = _whole_header(name, line)
        _claimed[0] = found.checksum
        return found

    with (
        replaced(f"{policy_header.__name__}._parsed", header),
        replaced(f"{policy_header.__name__}.checksum_of", _unchecked),
    ):
        yield


def _any_features(name: str, line: bytes) -> Any:
    from dataclasses import replace

    return replace(_whole_header(name, line), schema=schema_digest())


BENCHMARK = Benchmark(
    name="controller-faults",
    question="does a run go on when its policy is late, raises, hangs, or has a bad file?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "asks on the run's own thread",
            "what the policy raises or waits for is the run's own",
            lambda: replaced("esper_async.tolaria.deciding.Decider._ask", _lets_through),
            fails=("policy raises",),
        ),
        Mutant(
            "says nothing",
            "no emergency is told",
            lambda: replaced("esper_async.tolaria.chronicle.Chronicle.emergency", _silent),
            fails=(
                "policy raises",
                "policy is late *",
                "policy hangs twice *",
            ),
        ),
        Mutant(
            "never goes back",
            "a hang is answered by giving the policy up at once",
            lambda: replaced("esper_async.tolaria.engine.Recovery.before", lambda *_, **__: None),
            fails=("policy hangs once *",),
        ),
        Mutant(
            "does not look at the checksum",
            "a file is what it says",
            _no_checksum,
            fails=("corrupt policy file",),
        ),
        Mutant(
            "does not look at the features",
            "a policy of any features is loaded",
            lambda: replaced(f"{policy_header.__name__}._parsed", _any_features),
            fails=("policy of other features",),
        ),
    ),
)
