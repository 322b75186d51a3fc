"""How a process of ours ends, seen from outside."""

import subprocess
import sys
import threading

import pytest

from esper_async.runtime.process_end import Deadline

_ENDS = """
import atexit, sys
from esper_async.runtime.process_end import QuickEnd
class Part:
    def __del__(self, write=sys.stderr.write, flush=sys.stderr.flush):
        write("taken apart\\n"); flush()
part = Part()
end = QuickEnd()
atexit.register(print, "a handler of somebody else")
end.code = {code}
sys.stdout.write("said ")
sys.exit(3)
"""


@pytest.mark.parametrize(("code", "ended_with", "apart"), [(7, 7, ""), (None, 3, "taken apart\n")])
def test_a_process_with_a_code_ends_after_its_handlers_and_before_its_modules(
    code: int | None, ended_with: int, apart: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDS.format(code=code)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ended_with
    assert done.stdout == "said a handler of somebody else\n"
    assert done.stderr == apart


def test_a_deadline_passes_once_however_often_it_is_started() -> None:
    passed = threading.Semaphore(0)
    deadline = Deadline(0.0, passed.release)
    deadline.start()
    deadline.start()
    assert passed.acquire(timeout=30)
    assert not passed.acquire(blocking=False)


def test_a_deadline_that_is_cancelled_does_not_pass() -> None:
    passed = threading.Event()
    deadline = Deadline(3_600.0, passed.set)
    deadline.start()
    deadline.cancel()
    deadline._timer.join(30)
    assert not deadline._timer.is_alive()
    assert not passed.is_set()
