"""Whether adversarial kernels do what their names say.

Those that never return run in a process of their own, `python -m ...adversaries BLUEPRINT`, which
tells what it is at and is killed.
"""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event, Thread, main_thread

import torch
from torch import Tensor

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import QUARANTINE, Kernel, build_kernel
from esper_async.study.bench.kernel_faults import activations

ADVERSARIAL = tuple(sorted(key for key in QUARANTINE if key.startswith("BP")))
_FLAT = SiteInterface("feature", (4,))
_HANG_S = 30.0
_TELLS = 5


def acts_as_named(blueprint_id: str) -> bool:
    """Whether an adversarial kernel does the harm that it is named after, in a drill."""
    return _ACTS[blueprint_id](blueprint_id)


def _drilled(blueprint_id: str, **settings: object) -> tuple[Kernel, Tensor]:
    kernel = build_kernel(blueprint_id, _FLAT, settings, seed=0, drill=True)
    return kernel, activations(_FLAT, 3).requires_grad_()


def _gradient(blueprint_id: str) -> Tensor:
    kernel, h = _drilled(blueprint_id)
    kernel(h).sum().backward()
    assert h.grad is not None
    return h.grad.abs()


def _explodes(blueprint_id: str) -> bool:
    return bool((_gradient(blueprint_id) > 1e5).all())


def _vanishes(blueprint_id: str) -> bool:
    return bool((_gradient(blueprint_id) < 1e-8).all())


def _turns_to_nan(blueprint_id: str) -> bool:
    kernel, h = _drilled(blueprint_id, after=1)
    return bool(kernel(h).isfinite().all()) and bool(kernel(h).isnan().all())


def _hangs_under_load(blueprint_id: str) -> bool:
    times = _hanging(blueprint_id)
    return len(times) == _TELLS and times[-1] > times[0]


def _hangs_without_load(blueprint_id: str) -> bool:
    times = _hanging(blueprint_id)
    return len(times) == _TELLS and times[-1] - times[0] < 0.05


def _leaks(blueprint_id: str) -> bool:
    kernel, h = _drilled(blueprint_id, after=0, mebibytes=1)
    for _ in range(3):
        kernel(h)
    kept: list[Tensor] = kernel.__dict__.get("kept", [])
    return sum(tensor.nbytes for tensor in kept) > 3 * 2**20


def _loses_updates(blueprint_id: str) -> bool:
    kernel, h = _drilled(blueprint_id, after=0, percent=10)
    kernel(h)
    scale = kernel.state_dict()["scale"]
    return bool(((scale - 1.0).abs() > 0.05).all())  # both updates would have come to 0.99


def _opposes(blueprint_id: str) -> bool:
    kernel, h = _drilled(blueprint_id)
    pushed = kernel(h) * h
    return bool((pushed <= 0).all()) and bool(pushed.any())


_ACTS: Mapping[str, Callable[[str], bool]] = {
    "BP043": _explodes,
    "BP044": _vanishes,
    "BP045": _turns_to_nan,
    "BP046": _hangs_under_load,
    "BP047": _leaks,
    "BP048": _hangs_without_load,
    "BP049": _loses_updates,
    "BP050": _opposes,
}


def _hanging(blueprint_id: str) -> list[float]:
    """Return the processor time at a few moments while it hangs; fewer if it comes back."""
    command = [sys.executable, "-m", __name__, blueprint_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watchdog = Thread(target=_end_late, args=(process,), daemon=True)
        watchdog.start()
        times: list[float] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                seconds, *functions = line.split()
                if "misbehave" in functions:
                    times.append(float(seconds))
                if len(times) == _TELLS:
                    break
        finally:
            process.kill()
    return times


def _end_late(process: "subprocess.Popen[str]") -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_HANG_S)
    process.kill()


def _hang() -> None:
    """Run the kernel named on the command line; tell from another thread what it is at."""
    torch.set_num_threads(1)
    kernel, h = _drilled(sys.argv[1], after=0)
    ended = Event()
    Thread(target=_tell, args=(ended,), daemon=True).start()
    kernel(h)


def _tell(ended: Event) -> None:
    ident = main_thread().ident
    assert ident is not None
    while not ended.wait(0.05):
        stack = traceback.extract_stack(sys._current_frames()[ident])
        line = " ".join([str(time.process_time()), *(frame.name for frame in stack)])
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _hang()
