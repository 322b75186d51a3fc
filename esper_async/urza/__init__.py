"""Urza, the library: immutable, versioned, checksummed blueprints, certificates and kernels.

It never loses or changes an asset. Blobs are named by their SHA-256; the catalogue is SQLite,
shared by the forge's worker, training processes and the supervisor; every read verifies both,
and what is damaged is quarantined, reported and absent until the forge makes it again. The
supervisor side is `urza.service`, not imported here: a script that grows needs only `Library`.
Catalogue queries are `Query`, held against rows that are verified anew; a `sealed` asset is read
only under the local key; `export_to` and `import_from` carry a library from one place to another.
"""

from esper_async.urza.library import CERTIFICATE, Library
from esper_async.urza.query import Choice, Query
from esper_async.urza.records import Asset, Lifecycle

__all__ = ["CERTIFICATE", "Asset", "Choice", "Library", "Lifecycle", "Query"]
