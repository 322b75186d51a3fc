"""What does a message cost: to build, to read, to sign and to wrap?

Times are those of the quietest of many rounds, since a machine that does other things adds to some
of them and takes from none. A machine that parses the reference packet slower than the one on
which the bars were set (0.7 µs) has its times scaled by that; one that is faster has not.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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

PARSE_US = 0.7
_ROUNDS = {Effort.SHORT: 20, Effort.FULL: 100}
_CALLS = 500
_KEY = bytes(range(32))
_OUTCOME = "FIELD_REPORT_OUTCOME_NEUTRAL"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs in the quietest round, in microseconds."""

    p50_us: float
    p99_us: float


def measure(effort: Effort) -> list[Row]:
    """Time every step of a message's way through the contracts."""
    rounds = _ROUNDS[effort]
    packet = reference.state().SerializeToString()
    message = SystemStatePacket.FromString(packet)
    signer = Signer(_KEY)
    wire = wrap(message, source="bench", signer=signer)
    body, signature = wire[:-34], wire[-32:]
    parse = cost(lambda: SystemStatePacket.FromString(packet), rounds)
    scale = min(1.0, PARSE_US / parse.p50_us)
    note = (
        "" if scale == 1.0 else f"times {scale:.2f}: this machine parses in {parse.p50_us:.2f} µs"
    )

    def row(figure: str, work: Callable[[], object], p50: float, p99: float | None = None) -> None:
        found = cost(work, rounds)
        rows.append(judged(figure, scale * found.p50_us, "µs", Bar("at most", p50), note=note))
        if p99 is not None:
            late = scale * found.p99_us
            busy = late > p99 and scale * found.p50_us <= p50 and scale < 1.0
            rows.append(
                judged(
                    f"{figure}, p99",
                    late,
                    "µs",
                    Bar("at most", p99),
                    note=note,
                    doubt=f"{note}, and is busy" if busy else "",
                )
            )

    rows = [
        shown("the machine: parse the state packet, as it is", parse.p50_us, "µs"),
        judged("state packet", float(len(packet)), "bytes", Bar("at most", 279)),
        judged("state packet: parse", scale * parse.p50_us, "µs", Bar("at most", 1.5), note=note),
    ]
    row("state packet: build, serialise", lambda: reference.state().SerializeToString(), 5.0, 10.0)
    row("telemetry: build, serialise", lambda: reference.telemetry().SerializeToString(), 15.0)
    row("field report: build, serialise", lambda: reference.field_report().SerializeToString(), 5.0)
    row("sign", lambda: signer.sign(body), 5.0)
    row("verify", lambda: signer.verify(body, signature), 5.0)
    row("envelope: wrap and sign", lambda: wrap(message, source="bench", signer=signer), 5.0)
    opened = cost(lambda: unwrap(wire, signer=signer), rounds)
    rows.append(shown("envelope: unwrap and verify, as it is", opened.p50_us, "µs"))
    rows += _refusals(signer)
    return rows


def cost(work: Callable[[], object], rounds: int) -> Cost:
    """Time `work` one call at a time and return its quietest round's percentiles."""
    clock = time.perf_counter_ns
    quietest = Cost(float("inf"), float("inf"))
    with _no_collection():
        for _ in range(rounds):
            taken = np.empty(_CALLS)
            for place in range(_CALLS):
                started = clock()
                work()
                taken[place] = clock() - started
            p50, p99 = np.percentile(taken, (50, 99)) / 1e3
            quietest = Cost(min(quietest.p50_us, p50), min(quietest.p99_us, p99))
    return quietest


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
            seed_id=f"s{index}",
            gradient_norm=0.25,
            learning_rate=0.01,
            age_epochs=4,
            risk_score=0.1,
        )
        for index in range(3)
    ]
    return SystemStatePacket(
        version=1,
        packet_id="digits-1/12",
        created_at=1_790_000_000.25,
        run_id="digits-1",
        boundary=12,
        validation_loss=0.5,
        metrics={"gradient": 1.5, "speed": 90_000.0, "gap": 0.125},
        hardware=HardwareContext(device_type="cpu", memory_total_bytes=8 << 30, utilisation=0.75),
        seeds=seeds,
    )


BENCHMARK = Benchmark(
    name="contracts",
    question="what does a message cost: to build, to read, to sign and to wrap?",
    measure=measure,
    mutants=(
        Mutant(
            "packet made from nothing",
            "every boundary makes a new packet with all that is in it",
            lambda: replaced(f"{reference.__name__}.state", _afresh),
        ),
        Mutant(
            "signature not looked at",
            "verifying says yes",
            lambda: replaced("esper_async.leyline.signing.Signer.verify", lambda *_: True),
        ),
        Mutant(
            "another version is let in",
            "the schema version is compared with a later one",
            lambda: replaced("esper_async.leyline.validation.SCHEMA_VERSION", 2),
        ),
    ),
)
