"""The faults: each strikes the real thing, and says when it counts as overcome."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis.exceptions import RedisError

from esper_async.drills.fault import Fault, Overcome, goes_on, stop_in_time, trains_again
from esper_async.drills.forge_faults import FORGE_FAULTS
from esper_async.drills.stage import HEARTBEAT_S, Stage, StageError
from esper_async.oona.streams import normal_lane

HOLD_S = 2.0
"""How long what is frozen, full or slow stays so."""
READY_AGAIN_S, TRAINING_AGAIN_S = 5.0, 8.0
_STEP_S = 3_600.0
_FLOOD = 5_000


def _training(stage: Stage) -> int:
    pid = stage.child("train-")
    if pid is None:
        raise StageError("no run is being trained at the moment")
    return pid


def _kill_training(stage: Stage, run_id: str) -> Overcome:
    pid = _training(stage)
    overcome = trains_again(stage, run_id, pid)
    os.killpg(pid, signal.SIGKILL)
    return overcome


def _freeze_training(stage: Stage, run_id: str) -> Overcome:
    pid = _training(stage)
    overcome = trains_again(stage, run_id, pid)
    os.kill(pid, signal.SIGSTOP)
    return overcome


def _server(stage: Stage) -> int:
    pid = stage.redis_pid()
    if pid is None:
        raise StageError("the Redis server does not run at the moment")
    return pid


def _serves_again(stage: Stage, old: int, readers: int) -> Overcome:
    """A server other than `old` is read by as many as that one, and every service is ready."""

    def overcome() -> bool:
        return stage.redis_pid() not in (None, old) and _readers(stage) >= readers and stage.ready()

    return overcome


def _readers(stage: Stage) -> int:
    """Return how many take messages from the server; -1 while it does not answer."""
    try:
        with stage.redis() as redis:
            return sum(client["cmd"] == "xreadgroup" for client in redis.client_list())
    except (RedisError, OSError):
        return -1


def _kill_redis(stage: Stage, _run_id: str) -> Overcome:
    pid, readers = _server(stage), _readers(stage)
    os.kill(pid, signal.SIGKILL)
    return _serves_again(stage, pid, readers)


def _freeze_redis(stage: Stage, run_id: str) -> Overcome:
    pid = _server(stage)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(HOLD_S)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return goes_on(stage, run_id)


def _empty_redis(stage: Stage, _run_id: str) -> Overcome:
    with stage.redis() as redis:
        redis.flushall()
    return lambda: _has_groups(stage) and stage.ready()


def _has_groups(stage: Stage) -> bool:
    """Whether those who must hear of field reports can again."""
    try:
        with stage.redis() as redis:
            groups = redis.xinfo_groups(normal_lane("field_reports"))
            return any(group["name"] == b"simic" for group in groups)
    except (RedisError, OSError):
        return False


def _kill_supervisor(stage: Stage, run_id: str) -> Overcome:
    pid = stage.child("train-")
    overcome = trains_again(stage, run_id, pid)
    stage.kill()
    ready_s = stage.start()
    if ready_s > stage.slack * READY_AGAIN_S:
        stage.late.append(f"started again, it was ready after {ready_s:.1f} s")
    return overcome


def _stop_while_training(stage: Stage, run_id: str) -> Overcome:
    overcome = trains_again(stage, run_id, stage.child("train-"))
    stop_in_time(stage)
    stage.start()
    return overcome


def _stop_while_ingesting(stage: Stage, run_id: str) -> Overcome:
    """Deliver the last telemetry some thousand times more, and stop while it is taken in."""
    overcome = trains_again(stage, run_id, stage.child("train-"))
    stream = normal_lane("telemetry")
    with stage.redis() as redis:
        entries = redis.xrevrange(stream, count=1)
        if not entries:
            raise StageError("nobody has told any telemetry yet")
        with redis.pipeline(transaction=False) as pipeline:
            for _ in range(_FLOOD):
                pipeline.xadd(stream, entries[0][1])
            pipeline.execute()
    stop_in_time(stage)
    stage.start()
    return overcome


def _fail_nissa(stage: Stage, _run_id: str) -> Overcome:
    before = stage.service("nissa").get("restarts", 0)
    stage.seams.set("nissa_fails", 1.0)

    def overcome() -> bool:
        nissa = stage.service("nissa")
        return nissa.get("state") == "ready" and nissa.get("restarts", 0) > before

    return overcome


@contextmanager
def _no_room(pids: list[int]) -> Iterator[None]:
    """Have every write to a file fail in these processes, as by a full disk (EFBIG for ENOSPC)."""
    before = {}
    for pid in pids:
        with suppress(ProcessLookupError):
            before[pid] = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[pid][1]))
    try:
        yield
    finally:
        for pid, limit in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def _fill_disk(stage: Stage, run_id: str) -> Overcome:
    with _no_room([pid for pid in (stage.pid, stage.child("train-")) if pid is not None]):
        time.sleep(HOLD_S)
    return goes_on(stage, run_id)


def _slow_disk(stage: Stage, run_id: str) -> Overcome:
    stage.seams.set("fsync_delay_s", 0.3)
    time.sleep(HOLD_S)
    stage.seams.set("fsync_delay_s", 0.0)
    return goes_on(stage, run_id)


def _step_clock(stage: Stage, run_id: str) -> Overcome:
    """An hour forward, and back again."""
    stage.seams.set("wall_offset_s", _STEP_S)
    time.sleep(HOLD_S)
    stage.seams.set("wall_offset_s", 0.0)
    return goes_on(stage, run_id)


def _corrupt_blob(stage: Stage, run_id: str) -> Overcome:
    """Flip a byte in the middle of a blob of the library, which is looked through at a start."""
    blobs = (stage.state_dir / "urza" / "blobs").glob("*/*")
    paths = sorted(path for path in blobs if len(path.name) == 64)  # a digest: no sidecar
    if not paths:
        raise StageError("the library holds nothing that could be damaged")
    overcome = trains_again(stage, run_id, stage.child("train-"))
    damaged = paths[0]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    stop_in_time(stage)
    stage.start()
    aside = stage.state_dir / "urza" / "quarantine"
    return lambda: any(aside.glob(f"{damaged.name}.*")) and overcome()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "training-killed", "SIGKILL of the training process", _kill_training, TRAINING_AGAIN_S
        ),
        Fault(
            "training-frozen",
            f"SIGSTOP of the training process, found out after {HEARTBEAT_S:g} s",
            _freeze_training,
            HEARTBEAT_S + 10.0,
        ),
        Fault("redis-killed", "SIGKILL of the Redis server", _kill_redis, 2.0),
        Fault("redis-frozen", f"SIGSTOP of the Redis server for {HOLD_S:g} s", _freeze_redis),
        Fault("redis-emptied", "FLUSHALL under a live system", _empty_redis),
        Fault(
            "supervisor-killed",
            f"SIGKILL of the supervisor; a new start is ready within {READY_AGAIN_S:g} s",
            _kill_supervisor,
            READY_AGAIN_S + TRAINING_AGAIN_S,
        ),
        Fault("stopped-training", "SIGTERM in mid-training, and a new start", _stop_while_training),
        Fault("stopped-ingesting", "SIGTERM under a flood of telemetry", _stop_while_ingesting),
        *FORGE_FAULTS,
        Fault("nissa-failed", "an exception in Nissa's service", _fail_nissa, 1.0),
        Fault("disk-full", f"no write succeeds for {HOLD_S:g} s", _fill_disk),
        Fault("disk-slow", f"each fsync takes 0.3 s, for {HOLD_S:g} s", _slow_disk),
        Fault("clock-stepped", "the wall clock goes an hour forward and back", _step_clock),
        Fault(
            "blob-corrupted",
            "a byte of the library is another; a new start finds it",
            _corrupt_blob,
        ),
    )
}
