"""What does a message cost: to build, to read, to sign and to wrap?

Times are those of all calls, as they are. Between their rounds runs a control that no message is
part of, a fixed loop with a hash in it. When its rounds differ among each other, the machine does
other things too, and a time over its bar is inconclusive; so it is on a machine whose control is
slower than on the one on which the bars were set (1.65 µs), as far as that explains it. On a quiet
machine that is fast enough a miss is a miss, and far over its bar on any machine.
The size of the reference packet counts six metrics in all, see `reference_messages`; what nine
take, and what a run's packet takes, is shown beside it.
Building the packet is judged against its constructor as well, in the same rounds, which holds on
any machine.
"""

import gc
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from esper_async.leyline import (
    FieldReport,
    FieldReportOutcome,
    HardwareContext,
    SeedState,
    Signer,
    SystemStatePacket,
    spec_of,
    unwrap,
    wrap,
)
from esper_async.leyline.signing import _PreparedKey
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.leyline.validation import validate
from esper_async.study.bench import reference_messages as reference
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.study.bench.interleave import interleaved

CONTROL_US = 1.65
"""The control where the best prototype's packet parses in 0.7 µs: 2.1 µs, where it takes 0.89."""
SPREAD, TAIL = 1.1, 1.5
_BEYOND_LUCK = 5.0
"""So many times its bar is a miss at once, whatever else the machine does."""
_ROUNDS = {Effort.SHORT: 20, Effort.FULL: 100}
_CALLS = 500
_KEY = bytes(range(32))
_OUTCOME = "FIELD_REPORT_OUTCOME_NEUTRAL"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs, in microseconds."""

    p50_us: float
    p99_us: float


@dataclass(slots=True)
class Machine:
    """What the machine does to a time: whether it is busy, and how slow it is."""

    _rounds_s: list[float] = field(default_factory=list)
    _calls_ns: list[int] = field(default_factory=list)

    def listen(self) -> None:
        """Run one round of the control."""
        clock = time.perf_counter_ns
        began = clock()
        for _ in range(_CALLS):
            started = clock()
            _control()
            self._calls_ns.append(clock() - started)
        self._rounds_s.append((clock() - began) / 1e9)

    @property
    def tail(self) -> float:
        """By which factor one in a hundred calls of the control takes longer than a usual one."""
        p50, p99 = np.percentile(self._calls_ns, (50, 99))
        return float(p99 / p50)

    @property
    def spread(self) -> float:
        """By which factor a usual round of the control takes longer than its quietest."""
        return float(np.median(self._rounds_s)) / min(self._rounds_s)

    @property
    def control_us(self) -> float:
        """How long one call of the control takes in a usual round."""
        return 1e6 * float(np.median(self._rounds_s)) / _CALLS

    def doubt(self, value_us: float, most_us: float, *, of_the_tail: bool = False) -> str:
        """Say why a time over its bar proves nothing; empty if it does, or is not over it."""
        slowness = max(1.0, self.control_us / CONTROL_US)
        if not most_us < value_us <= max(_BEYOND_LUCK, slowness) * most_us:
            return ""
        if of_the_tail and self.tail > TAIL:
            return f"one in a hundred calls of the control takes {self.tail:.1f} usual ones"
        if self.spread > SPREAD:
            return f"the machine is busy: its control's rounds differ by {self.spread - 1:.0%}"
        if slowness > SPREAD and value_us <= most_us * slowness:
            takes = f"its control takes {self.control_us:.2f} µs, not {CONTROL_US} µs"
            return f"the machine is slow: {takes}"
        return ""


def measure(effort: Effort) -> list[Row]:
    """Time every step of a message's way through the contracts."""
    rounds = _ROUNDS[effort]
    machine = Machine()
    packet = reference.state().SerializeToString()
    message = SystemStatePacket.FromString(packet)
    signer = Signer(_KEY)
    wire = wrap(message, source="bench", signer=signer)
    body, signature = wire[:-34], wire[-32:]
    timed: list[tuple[str, float, float]] = []

    def take(figure: str, work: Callable[[], object], p50: float, p99: float | None = None) -> None:
        found = cost(work, rounds, machine)
        timed.append((figure, found.p50_us, p50))
        if p99 is not None:
            timed.append((f"{figure}, p99", found.p99_us, p99))

    take("state packet: parse", lambda: SystemStatePacket.FromString(packet), 1.5)
    take("state packet: build, serialise", lambda: reference.state().SerializeToString(), 5.0, 10.0)
    take("telemetry: build, serialise", lambda: reference.telemetry().SerializeToString(), 15.0)
    take(
        "field report: build, serialise", lambda: reference.field_report().SerializeToString(), 5.0
    )
    take("sign", lambda: signer.sign(body), 5.0)
    take("verify", lambda: signer.verify(body, signature), 5.0)
    take("envelope: wrap and sign", lambda: wrap(message, source="bench", signer=signer), 5.0)
    opened = cost(lambda: unwrap(wire, signer=signer), rounds, machine)
    return [
        shown("the machine: its control", machine.control_us, "µs"),
        shown("the machine: spread of the control's rounds", machine.spread, "times"),
        judged(
            "state packet",
            float(len(packet)),
            "bytes",
            Bar("at most", 279),
            note="6 metrics: 3 in fields of their own, 3 in the map",
        ),
        _size(
            "state packet, 6 metrics in the map", reference.state_with_nine_metrics(), "9 in all"
        ),
        _size(
            "state packet, as a run fills it",
            reference.state_of_a_run(),
            "6 metrics; a run's id, and a site, blueprint and alpha a seed",
        ),
        *[
            judged(
                figure,
                value,
                "µs",
                Bar("at most", most),
                doubt=machine.doubt(value, most, of_the_tail=figure.endswith("p99")),
            )
            for figure, value, most in timed
        ],
        _against_constructor(rounds),
        shown("envelope: unwrap and verify", opened.p50_us, "µs"),
        *_refusals(signer),
    ]


def _size(figure: str, packet: SystemStatePacket, note: str) -> Row:
    return shown(figure, float(packet.ByteSize()), "bytes", note=note)


def cost(work: Callable[[], object], rounds: int, machine: Machine) -> Cost:
    """Time `work` one call at a time, and let the machine be heard between rounds."""
    clock = time.perf_counter_ns
    taken = np.empty((rounds, _CALLS))
    with _no_collection():
        for number in range(rounds):
            machine.listen()
            for place in range(_CALLS):
                started = clock()
                work()
                taken[number, place] = clock() - started
    p50, p99 = np.percentile(taken, (50, 99)) / 1e3
    return Cost(float(p50), float(p99))


def _control() -> bytes:
    """Do always the same: some arithmetic, and a hash of something."""
    total = 0
    for number in range(50):
        total += number * number & 7
    return hashlib.sha256(b"%d" % total).digest()


def _against_constructor(rounds: int) -> Row:
    """Compare building the state packet with what its constructor takes for the same content."""

    def calls(build: Callable[[], SystemStatePacket]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(_CALLS):
                build().SerializeToString()

        return run

    with _no_collection():
        timed = interleaved(calls(_afresh), calls(reference.state), rounds=rounds)
    compared = timed.compare("cpu_s")
    baseline = 1e6 * compared.baseline_s / _CALLS
    return judged(
        "state packet: build, serialise, against its constructor",
        compared.ratio.value * baseline,
        "µs",
        Bar("at most", 0.75),
        baseline=baseline,
        interval=(compared.ratio.low, compared.ratio.high),
        note="the constructor given the same content, in turn with it",
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _refusals(signer: Signer) -> list[Row]:
    """Whether cheap is still strict: another key's, another version's and an altered message."""
    report = reference.field_report()
    wire = wrap(report, source="bench", signer=signer)
    other = FieldReport(version=2, report_id="r", outcome=FieldReportOutcome.Value(_OUTCOME))
    attempts: list[Callable[[], Any]] = [
        lambda: unwrap(wire, signer=Signer(bytes(32))),
        lambda: unwrap(wire[:20] + b"!" + wire[21:], signer=signer),
        lambda: validate(other, spec_of(other)),
    ]
    refused = sum(_raises(attempt) for attempt in attempts)
    bar = Bar("at least", len(attempts))
    return [judged("forged, altered, other version: refused", float(refused), "of 3", bar)]


def _raises(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except ValueError:
        return True
    return False


def _afresh() -> SystemStatePacket:
    """The packet as its constructor makes it, every part from nothing."""
    seeds = [
        SeedState(
            seed_id=f"s{depth}",
            stage=enums.SEED_LIFECYCLE_STAGE_TRAINING,
            gradient_norm=0.25 + depth,
            learning_rate=0.01,
            layer_depth=depth,
            age_epochs=4,
            risk_score=0.125,
        )
        for depth in range(3)
    ]
    return SystemStatePacket(
        version=1,
        packet_id="digits-1/12",
        created_at=1_790_000_000.25,
        global_step=1_560,
        epoch=12,
        boundary=12,
        validation_accuracy=0.875,
        validation_loss=0.5,
        training_loss=0.375,
        metrics={"gradient": 1.5, "speed": 90_000.0, "gap": 0.125},
        hardware=HardwareContext(
            device_type="cpu",
            memory_total_bytes=8 << 30,
            compute_capability="avx2",
            memory_available_bytes=5 << 30,
            temperature_celsius=51.5,
            utilisation=0.75,
        ),
        run_id="digits-1",
        experiment="digits",
        primary_metric="validation_loss",
        primary_direction=enums.METRIC_DIRECTION_MINIMISE,
        seeds=seeds,
    )


# -- mutants -------------------------------------------------------------------------------------

_whole_digest = _PreparedKey.digest


def _times(count: int, build: Callable[[], Any]) -> Callable[[], Any]:
    def built() -> Any:
        for _ in range(count - 1):
            build()
        return build()

    return built


@contextmanager
def _over_and_over() -> Iterator[None]:
    with mock.patch.multiple(
        reference,
        state=_times(10, _afresh),
        telemetry=_times(30, reference.telemetry),
        field_report=_times(30, reference.field_report),
    ):
        yield


def _with_history() -> SystemStatePacket:
    packet = _afresh()
    packet.seeds.extend([packet.seeds[0]] * 300)
    return packet


def _hashes_often(key: _PreparedKey, data: bytes) -> bytes:
    for _ in range(99):
        _whole_digest(key, data)
    return _whole_digest(key, data)


BENCHMARK = Benchmark(
    name="contracts",
    question="what does a message cost: to build, to read, to sign and to wrap?",
    measure=measure,
    mutants=(
        Mutant(
            "packet made from nothing",
            "every boundary makes a new packet with all that is in it",
            lambda: replaced(f"{reference.__name__}.state", _afresh),
            fails=("state packet: build, serialise, against its constructor",),
        ),
        Mutant(
            "built over and over",
            "whoever builds a message builds it ten or thirty times",
            _over_and_over,
            fails=("*: build, serialise*",),
        ),
        Mutant(
            "all seeds that ever were",
            "a state packet carries three hundred seeds that are gone",
            lambda: replaced(f"{reference.__name__}.state", _with_history),
            fails=("state packet", "state packet: parse"),
        ),
        Mutant(
            "hashed a hundred times",
            "a signature is made again and again",
            lambda: replaced("esper_async.leyline.signing._PreparedKey.digest", _hashes_often),
            fails=("sign", "verify", "envelope: wrap and sign"),
        ),
        Mutant(
            "signature not looked at",
            "verifying says yes",
            lambda: replaced("esper_async.leyline.signing.Signer.verify", lambda *_: True),
            fails=("forged, altered, other version: refused",),
        ),
        Mutant(
            "another version is let in",
            "the schema version is compared with a later one",
            lambda: replaced("esper_async.leyline.validation.SCHEMA_VERSION", 2),
            fails=("forged, altered, other version: refused",),
        ),
    ),
)
