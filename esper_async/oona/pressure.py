"""What to do with a message when a topic is deep: a pure decision with hysteresis."""

from enum import Enum

from esper_async.leyline.v1.enums_pb2 import (
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_LOW,
    MessagePriority,
)
from esper_async.oona.settings import BusSettings


class Verdict(Enum):
    """Publish it, drop it and count that, or tell the caller to come back."""

    ADMIT = "admit"
    DROP = "drop"
    PUSH_BACK = "push_back"


class Pressure:
    """The state of one topic. Conservative from the high-water mark down to the low one."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self.conservative = False
        self.depth = 0

    def observe(self, depth: int) -> None:
        """Take in how many entries required groups have still to acknowledge."""
        self.depth = depth
        if depth > self._settings.high_water:
            self.conservative = True
        elif depth < self._settings.low_water:
            self.conservative = False

    def verdict(self, priority: MessagePriority.ValueType) -> Verdict:
        """Decide about a message that is not durable; durable ones always pass."""
        if priority == MESSAGE_PRIORITY_CRITICAL:
            return Verdict.ADMIT
        at_bound = self.depth >= self._settings.queue_bound
        if priority <= MESSAGE_PRIORITY_LOW:
            return Verdict.DROP if at_bound or self.conservative else Verdict.ADMIT
        return Verdict.PUSH_BACK if at_bound else Verdict.ADMIT
