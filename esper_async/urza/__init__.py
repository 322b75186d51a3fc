"""Urza, the library: immutable, versioned, checksummed blueprints, certificates and kernels.

It never loses or changes an asset. Blobs are named by their SHA-256; the catalogue is SQLite,
shared by the forge's worker, training processes and the supervisor; every read verifies both,
and what is damaged is quarantined, reported and absent until the forge makes it again.
"""

from esper_async.urza.library import CERTIFICATE, Library
from esper_async.urza.records import Asset, Lifecycle
from esper_async.urza.service import UrzaService, UrzaSettings

__all__ = ["CERTIFICATE", "Asset", "Library", "Lifecycle", "UrzaService", "UrzaSettings"]
