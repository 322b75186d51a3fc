"""Who may have seeds paused, and how often: every pause is authorised and drawn from a quota."""

from typing import Any

from esper_async.leyline import LIMITS

AUTHORISED = frozenset({"risk", "operator"})


class PauseRefusedError(PermissionError):
    """A pause was not granted; the message says why."""


class PauseQuota:
    """The pauses that a run may still have.

    Attributes:
        remaining: how many.
    """

    def __init__(self, quota: int = LIMITS.pause_quota) -> None:
        self.remaining = quota

    def draw(self, asker: str, count: int) -> None:
        """Grant `count` pauses to an asker.

        Raises:
            PauseRefusedError: it may not ask, or the quota is spent; nothing was drawn.
        """
        if asker not in AUTHORISED:
            allowed = " and ".join(sorted(AUTHORISED))
            raise PauseRefusedError(f"{asker!r} may not pause seeds; {allowed} may")
        if count > self.remaining:
            raise PauseRefusedError(
                f"{count} pauses were asked for, and {self.remaining} are left of the run's quota"
            )
        self.remaining -= count

    def state_dict(self) -> dict[str, Any]:
        """Return what is left."""
        return {"remaining": self.remaining}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.remaining = state["remaining"]
