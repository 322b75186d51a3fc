"""How late is a plain write on this machine? `python -m esper_async.study.bench.lag_child URL`

Every few milliseconds, until its input ends, it writes a key and notes how late the answer came;
then it prints the percentiles as JSON. It shares nothing with what is measured beside it but the
machine and the server, so that what it sees is not that one's own doing.
"""

import json
import sys
import threading
import time

import numpy as np
import redis

from esper_async.study.bench.bus_load import PERCENTILES, PROBE, TICK_S


def main() -> None:
    """Watch until the input ends."""
    client = redis.Redis.from_url(sys.argv[1])
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    late_ms: list[float] = []
    client.set(PROBE, b"")
    sys.stdout.write("\n")
    sys.stdout.flush()
    while not over.is_set():
        due = time.perf_counter() + TICK_S
        time.sleep(TICK_S)
        client.set(PROBE, b"")
        late_s = time.perf_counter() - due
        # one that is late by several ticks stands for those that could not even begin
        late_ms += [1e3 * (late_s - missed * TICK_S) for missed in range(int(late_s / TICK_S) + 1)]
    found = np.percentile(late_ms, PERCENTILES) if late_ms else np.zeros(len(PERCENTILES))
    sys.stdout.write(json.dumps(found.tolist()))


if __name__ == "__main__":
    main()
