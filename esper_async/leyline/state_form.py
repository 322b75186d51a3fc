"""One run's state packet, kept and filled anew at every boundary.

Making a packet from nothing allocates a dozen messages and takes three times as long.
"""

from esper_async.leyline.limits import SCHEMA_VERSION
from esper_async.leyline.v1.enums_pb2 import METRIC_DIRECTION_UNSPECIFIED, MetricDirection
from esper_async.leyline.v1.state_pb2 import HardwareContext, SeedState, SystemStatePacket


class StateForm:
    """Hands out one packet again and again, blank but for what is the run's; used by one thread."""

    def __init__(
        self,
        run_id: str,
        experiment: str,
        *,
        primary_metric: str = "",
        primary_direction: MetricDirection.ValueType = METRIC_DIRECTION_UNSPECIFIED,
        hardware: HardwareContext | None = None,
    ) -> None:
        self._packet = SystemStatePacket(
            version=SCHEMA_VERSION,
            run_id=run_id,
            experiment=experiment,
            primary_metric=primary_metric,
            primary_direction=primary_direction,
            hardware=hardware,
        )
        self.hardware = self._packet.hardware
        """The packet's own hardware block, to be kept up to date in place."""
        self.metrics = self._packet.metrics
        self.seeds: list[SeedState] = []
        """One blank state for each seed that `begin` was told of."""

    def begin(self, boundary: int, *, seeds: int) -> SystemStatePacket:
        """Return the packet for this boundary; what is not filled in was not measured.

        It is the same message each time: serialise or copy it before the next one.
        """
        packet = self._packet
        packet.boundary = boundary
        packet.ClearField("validation_accuracy")
        packet.ClearField("validation_loss")
        packet.ClearField("training_loss")
        self.metrics.clear()
        if len(self.seeds) == seeds:
            for seed in self.seeds:
                seed.Clear()
        else:
            del packet.seeds[:]
            self.seeds = [packet.seeds.add() for _ in range(seeds)]
        return packet
