"""Tezzeret, the forge: proves (and, in time, compiles) kernels in the background.

It never blocks anyone. A durable queue of what Urza lacks, one worker process at the lowest
priority that exists only while there is work, certificates into the library, answers on the bus.
"""

from esper_async.tezzeret.service import TezzeretService
from esper_async.tezzeret.settings import ForgeSettings

__all__ = ["ForgeSettings", "TezzeretService"]
