"""How bad an emergency of a run is, and what is done about each level.

CRITICAL freezes the run, through the flag that it reads once a batch, until somebody resumes it.
SEVERE sends it back to its newest state, from memory where that is; MAJOR to one from disk. MINOR
lowers its learning rates at the next boundary and says so.
"""

from typing import Literal, get_args

Level = Literal["MINOR", "MAJOR", "SEVERE", "CRITICAL"]
LEVELS: tuple[Level, ...] = get_args(Level)
RATE_FACTOR = 0.5
"""Learning rates are multiplied by this at a MINOR emergency, and with every rollback of one."""
MOST_REASON = 500
"""Characters of a reason."""
