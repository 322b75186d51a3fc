"""Oona: the message bus. Redis Streams, at-least-once, two lanes, dead letters; never tensors.

A service publishes and consumes through `Bus`; a child process through `Bridge`, whose caller is
never blocked by Redis. What must not be lost waits in a `Spool` on disk until every required
group has acknowledged it. Consumers record the event's id with its effect (`effects`), so that
effects happen once.
"""

from esper_async.oona.bridge import Bridge, BridgeReport
from esper_async.oona.bus import Bus
from esper_async.oona.dead_letters import DeadLetter, DeadLetters
from esper_async.oona.effects import EffectLog, first_time, prepare_effects
from esper_async.oona.errors import Backpressure, BusUnavailable, ServerStartError
from esper_async.oona.server import EmbeddedServer
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool

__all__ = [
    "Backpressure",
    "Bridge",
    "BridgeReport",
    "Bus",
    "BusSettings",
    "BusUnavailable",
    "DeadLetter",
    "DeadLetters",
    "EffectLog",
    "EmbeddedServer",
    "ServerStartError",
    "Spool",
    "first_time",
    "prepare_effects",
]
