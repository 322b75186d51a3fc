"""What Karn asks of Urza: the certificates that the library has for an interface."""

from collections.abc import Iterator, Mapping
from typing import Any

from esper_async.urza import CERTIFICATE, Library, Query

_MOST = 200
"""Certificates looked at: several for each of the fifty, of this and of earlier code."""


class LibraryCertificates:
    """Reads them, newest first; what is damaged or no longer in force is left out."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def __call__(self, interface: str) -> Iterator[Mapping[str, Any]]:
        """Yield the certificates for an interface's key."""
        asked = Query(kind=CERTIFICATE, interface=interface)
        for asset in self._library.find(asked, limit=_MOST):
            record = self._library.certificate(asset.key)
            if record is not None:
                yield record
