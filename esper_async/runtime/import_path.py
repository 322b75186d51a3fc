"""Where a process of ours finds what a user names: `package.module:callable`, from where they are.

Our processes start with `python -P`, since without it the current directory comes first and a
user's `queue.py` stands in for the standard library's. It belongs on the path all the same, last.
"""

import os
import sys


def append_working_directory() -> None:
    """Let modules of the current directory be imported, wherever no other has their name."""
    here = os.getcwd()  # noqa: PTH109 - this runs before any import that could go astray
    if here not in sys.path:
        sys.path.append(here)
