"""The learned policy that comes with the program, verified by its checksum. Torch-free.

`docs/shipped-policy.md` is its card.
"""

from pathlib import Path
from typing import Any

from esper_async.tamiyo.published import read_pinned

LEARNED = "learned"
"""The name by which a run asks for the best policy that was learned."""
SHIPPED_FILE = Path(__file__).with_name("shipped.json")
SHIPPED_SHA256 = "41179380805e8f05a2c84972ccce07ce7516ba23d69c58ebdcfe1860dfb46ede"


def shipped_document() -> dict[str, Any]:
    """Return what comes with the program. Raises CorruptPolicyError: its file was changed."""
    return read_pinned(SHIPPED_FILE, SHIPPED_SHA256)
