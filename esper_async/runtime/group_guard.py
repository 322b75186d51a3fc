"""What ends a child's process group when the supervisor itself is killed.

The kernel ends the child then (its parent-death signal), but not what the child has started: data
loader workers, or a user's own processes. A shell of a few hundred kilobytes waits beside each
child for the end of a pipe that only the supervisor holds, and kills the group.
"""

import contextlib
import subprocess
from typing import IO

_SCRIPT = 'read -r word; [ -n "$word" ] || kill -s KILL -- "-$1"'


class GroupGuard:
    """Kill process group `group` when this process is gone; `dismiss` once it need not be."""

    def __init__(self, group: int) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "esper-group-guard", str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the guard without its having killed anything; returns once it has ended."""
        assert self._process.stdin is not None
        stdin: IO[bytes] = self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            stdin.write(b"dismissed\n")
            stdin.close()
        self._process.wait()
