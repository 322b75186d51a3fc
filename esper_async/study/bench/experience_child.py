"""A process that opens a store of experience and draws from it, to be measured by itself."""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from esper_async.simic.store import ExperienceStore
from esper_async.study.bench.experience_faults import FAULTS

_SAMPLE = 32


def main() -> None:
    """Open the store, draw, and print what that took as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    asked = parser.parse_args()
    store_type = ExperienceStore if asked.fault is None else FAULTS[asked.fault]
    before_mb = _resident_mb()
    started = time.perf_counter()
    store = store_type(asked.store, now=time.time)
    source = random.Random(11)  # noqa: S311 - reproducible draws, no secret
    store.sample(_SAMPLE, source)
    opened_s = time.perf_counter() - started
    times_ms = []
    for _ in range(asked.samples):
        started = time.perf_counter()
        drawn = store.sample(_SAMPLE, source)
        times_ms.append(1e3 * (time.perf_counter() - started))
        if len(drawn) != _SAMPLE:
            raise SystemExit(f"{len(drawn)} were drawn, and not {_SAMPLE}")
    told = {
        "opened_s": opened_s,
        "held_mb": _resident_mb() - before_mb,
        "resident_mb": _resident_mb(),
        "sample_ms": times_ms,
    }
    store.close()
    sys.stdout.write(json.dumps(told))


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


if __name__ == "__main__":
    main()
