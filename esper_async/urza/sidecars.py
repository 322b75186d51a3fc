"""A second copy of every catalogue record, one small file each, from which rows are restored.

A sidecar is found by key and version alone, so that a damaged row can be restored without
trusting anything in it.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from esper_async.runtime.files import write_atomically
from esper_async.urza.errors import DamagedRecordError
from esper_async.urza.records import Asset, canonical, checked, digest_of


class Sidecars:
    """Sidecar files under `directory/sidecars`. Every method may raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "sidecars"
        self._directory.mkdir(parents=True, exist_ok=True)

    def write(self, asset: Asset) -> None:
        """Write or replace the sidecar of this version."""
        record = asset.to_json()
        text = canonical({"digest": digest_of(record), "record": record})
        write_atomically(self.path(asset.key, asset.version), text.encode())

    def exists(self, key: str, version: int) -> bool:
        """Whether there is a sidecar of that version, intact or not."""
        return self.path(key, version).exists()

    def read(self, key: str, version: int) -> Asset | None:
        """The record of that version; None when its sidecar is missing or damaged."""
        return _read(self.path(key, version))

    def quarantine(self, key: str, version: int) -> None:
        """Move a sidecar that cannot be read out of the way."""
        source = self.path(key, version)
        target = self._directory.parent / "quarantine" / f"{source.name}.{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        source.replace(target)

    def remove(self, key: str, version: int) -> None:
        """Delete a sidecar; one that is gone already is fine."""
        self.path(key, version).unlink(missing_ok=True)

    def of_key(self, key: str) -> list[Asset]:
        """The intact sidecars of every version of `key`, oldest first."""
        home = self.path(key, 0).parent
        found = (_read(path) for path in home.glob(f"{digest_of(key)}.*.json"))
        ours = (asset for asset in found if asset is not None and asset.key == key)
        return sorted(ours, key=lambda asset: asset.version)

    def all(self) -> Iterator[Asset]:
        """Every intact sidecar, in no order."""
        for path in self._paths():
            asset = _read(path)
            if asset is not None:
                yield asset

    def path(self, key: str, version: int) -> Path:
        """Where the sidecar of that version lies."""
        name = digest_of(key)
        return self._directory / name[:2] / f"{name}.{version}.json"

    def _paths(self) -> Iterator[Path]:
        return (path for path in self._directory.glob("*/*.json") if path.name[0] != ".")


def _read(path: Path) -> Asset | None:
    try:
        envelope = json.loads(path.read_bytes())
        return checked(envelope["record"], envelope["digest"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, DamagedRecordError):
        return None
