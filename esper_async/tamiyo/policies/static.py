"""`static`: never grows. The baseline of every comparison."""

from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, NoOp
from esper_async.tamiyo.view import View


class StaticPolicy:
    """Answer every boundary with no operation."""

    name: ClassVar[str] = "static"
    version: ClassVar[str] = "1"

    def decide(self, view: View) -> Decision:
        """Return no-op."""
        return Decision(NoOp(), "this policy never acts", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""
