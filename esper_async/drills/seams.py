"""What no fault from outside can do: step the clock, fill the disk, fail a service or a kernel.

A few numbers in a small file that every Python process of the drill has mapped. A `sitecustomize`
puts them behind `time.time`, `os.fsync` and `os.statvfs`, which is where the program takes time,
durability and room from, behind two services' coroutines, and in a training process behind what a
seed learns by and what decides, before anything of the program runs.
"""

import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path

_FIELDS = {
    "wall_offset_s": 0,
    "fsync_delay_s": 1,
    "nissa_fails": 2,
    "simic_fails": 3,
    "disk_taken": 4,
    "host_touched": 5,
    "decision_delay_s": 6,
    "policy_fails": 7,
}
_SIZE = 8 * len(_FIELDS)
DISK_TAKEN = 0.5
"""The share of the disk in use unless a drill says otherwise, however full the machine's own is."""
_SOURCE = """
import asyncio, mmap, os, struct, sys, time
_file = os.open({path!r}, os.O_RDWR)
_map = mmap.mmap(_file, {size})
os.close(_file)
_time, _fsync, _statvfs = time.time, os.fsync, os.statvfs
def _read(place):
    return struct.unpack_from("d", _map, 8 * place)[0]
def _shifted():
    return _time() + _read(0)
def _slowed(descriptor):
    time.sleep(_read(1))
    return _fsync(descriptor)
def _filled(path):
    facts = _statvfs(path)
    left = int(facts.f_blocks * (1.0 - _read(4)))
    return os.statvfs_result((*facts[:3], left, left, *facts[5:]))
time.time, os.fsync, os.statvfs = _shifted, _slowed, _filled
if "up" in sys.orig_argv:
    from esper_async.nissa.service import NissaService
    from esper_async.simic.service import SimicService
    def _failing(kind, place, once):
        whole = kind.run
        async def fail():
            while not _read(place):
                await asyncio.sleep(0.01)
            if once:
                struct.pack_into("d", _map, 8 * place, 0.0)
            raise RuntimeError("a drill: the service fails")
        async def run(self, ready):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(whole(self, ready))
        kind.run = run
    _failing(NissaService, 2, once=True)
    _failing(SimicService, 3, once=False)
"""
TRAINING = """
if sys.orig_argv[-1].startswith("train-"):
    from esper_async.kasmina import shadow_training
    from esper_async.tamiyo.policies.sampled import RandomPolicy
    from esper_async.tolaria.grower import Grower
    _learn, _decide, _draw = shadow_training.shadow_step, Grower._decide, RandomPolicy.decide
    def _touching(call, *rest, **named):
        if _read(5):
            import torch
            torch.rand(1)
        return _learn(call, *rest, **named)
    def _slowly(self):
        time.sleep(_read(6))
        return _decide(self)
    def _failing(self, view):
        if _read(7):
            raise RuntimeError("a drill: the policy fails")
        return _draw(self, view)
    shadow_training.shadow_step, Grower._decide = _touching, _slowly
    RandomPolicy.decide = _failing
"""
"""More of it, for stages that ask: a training process then imports what it needs sooner."""


class Seams:
    """The numbers of one drill, in `folder`; `environment` is what its processes need."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "numbers"
        path.write_bytes(bytes(_SIZE))
        (folder / "sitecustomize.py").write_text(_SOURCE.format(path=str(path), size=_SIZE))
        self._folder = folder
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.set("disk_taken", DISK_TAKEN)

    def environment(self, before: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment (default: this process's) in which the seams are open."""
        variables = dict(os.environ if before is None else before)
        paths = (str(self._folder), variables.get("PYTHONPATH"))
        return {**variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def set(self, name: str, value: float) -> None:
        """Set one of them.

        `wall_offset_s` and `fsync_delay_s` are seconds; `nissa_fails` is 1 to have it fail once,
        `simic_fails` 1 for as long as it fails; `disk_taken` is the share of the disk in use,
        `DISK_TAKEN` at first; with `host_touched` 1 each seed that learns draws from the host's
        random numbers; `decision_delay_s` is how much longer a decision takes, and with
        `policy_fails` 1 the policy `random` raises at each.
        """
        struct.pack_into("d", self._map, 8 * _FIELDS[name], value)
