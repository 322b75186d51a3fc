"""A library as one file: a tar archive of a manifest and the blobs, verified before it is used.

The manifest comes first and holds the records of all versions under one digest; each blob is named
by its SHA-256. What is sealed stays at home: its key does not travel, and it can be made again.
"""

import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from esper_async.runtime.files import sync_directory
from esper_async.urza.errors import ArchiveError, DamagedRecordError
from esper_async.urza.records import Asset, canonical, digest_of

_FORMAT, _VERSION = "esper-library", 1
_MANIFEST, _BLOBS = "manifest.json", "blobs/"
_MOST_MANIFEST_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_NO_ARCHIVE = (tarfile.TarError, ValueError, OverflowError)
"""What tarfile raises over what is no archive; the latter two over headers that no tar writes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an archive holds; `sealed` and `lost` versions were left out of it."""

    assets: int
    blobs: int
    size_bytes: int
    sealed: int
    lost: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an archive's versions: taken in, or left because their key was known here.

    `sealed` ones were refused: they may only be opened where they were made.
    """

    assets: int
    known: int
    sealed: int


def write_archive(
    path: Path, assets: Iterable[Asset], content_of: Callable[[Asset], bytes | None]
) -> Exported:
    """Write an archive of those versions, durable when this returns. Raises OSError.

    A version of which `content_of` returns None is left out.
    """
    kept: list[Asset] = []
    sealed = lost = 0
    for asset in assets:
        if asset.seal:
            sealed += 1
        elif content_of(asset) is None:
            lost += 1
        else:
            kept.append(asset)
    blobs = {asset.blob: asset for asset in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                _add(archive, _MANIFEST, _manifest(kept))
                for name, asset in sorted(blobs.items()):
                    content = content_of(asset)
                    if content is None:
                        raise ArchiveError(f"the blob of {asset.id} was lost while it was exported")
                    _add(archive, _BLOBS + name, content)
            file.flush()
            os.fsync(file.fileno())
        size_bytes = temporary.stat().st_size
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return Exported(len(kept), len(blobs), size_bytes, sealed, lost)


class Archive:
    """An archive that was read once from end to end, and found to be whole.

    Raises ArchiveError when it is not, FileNotFoundError when there is none, OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blobs: dict[str, tarfile.TarInfo] = {}
        try:
            self._file = tarfile.open(path, "r:")  # noqa: SIM115 - closed by `close`
        except _NO_ARCHIVE as error:
            raise ArchiveError(f"{path} is no library archive: {error}") from error
        try:
            self.assets = self._checked()
        except _NO_ARCHIVE as error:
            self._file.close()
            raise ArchiveError(f"{path} is damaged: {error}") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def content(self, asset: Asset) -> bytes:
        """The content of a version, verified again. Raises ArchiveError."""
        file = self._open(self._blobs[asset.blob])
        content = file.read()
        if hashlib.sha256(content).hexdigest() != asset.blob:
            raise ArchiveError(f"{self._path} has changed while it was read")
        return content

    def _checked(self) -> list[Asset]:
        members = iter(self._file)
        assets = self._read_manifest(next(members, None))
        sizes = {asset.blob: asset.size_bytes for asset in assets}
        for member in members:
            name = member.name.removeprefix(_BLOBS)
            if name not in sizes or member.name == name or name in self._blobs:
                raise ArchiveError(f"{self._path} holds {member.name!r}, which its manifest lacks")
            if not member.isfile() or member.size != sizes[name]:
                raise ArchiveError(f"{self._path}: {member.name} is not what its manifest says")
            if _digest(self._open(member)) != name:
                raise ArchiveError(f"{self._path}: the content of {member.name} is damaged")
            self._blobs[name] = member
        absent = sizes.keys() - self._blobs
        if absent:
            raise ArchiveError(f"{self._path} is cut short: it lacks {len(absent)} blobs")
        return assets

    def _read_manifest(self, member: tarfile.TarInfo | None) -> list[Asset]:
        if member is None or member.name != _MANIFEST or not member.isfile():
            raise ArchiveError(f"{self._path} is no library archive: it has no {_MANIFEST}")
        if member.size > _MOST_MANIFEST_BYTES:
            raise ArchiveError(f"{self._path}: its manifest has {member.size} bytes")
        try:
            envelope = json.loads(self._open(member).read())
            text = envelope["manifest"]
            if digest_of(text) != envelope["digest"]:
                raise ArchiveError(f"{self._path}: its manifest is damaged")
            manifest = json.loads(text)
            if (manifest["format"], manifest["version"]) != (_FORMAT, _VERSION):
                raise ArchiveError(
                    f"{self._path} is of {manifest['format']} {manifest['version']}; "
                    f"this reads {_FORMAT} {_VERSION}"
                )
            assets = [Asset.from_json(record) for record in manifest["assets"]]
            for asset in assets:
                asset.check_types()
            return assets
        except (
            ValueError, TypeError, KeyError, AttributeError, RecursionError, DamagedRecordError,
        ) as error:  # fmt: skip
            raise ArchiveError(f"{self._path}: its manifest cannot be read: {error}") from error

    def _open(self, member: tarfile.TarInfo) -> IO[bytes]:
        file = self._file.extractfile(member)
        if file is None:
            raise ArchiveError(f"{self._path}: {member.name} is no file")
        return file


def by_key(assets: Iterable[Asset]) -> Iterator[list[Asset]]:
    """All versions of one key after the other, oldest first."""
    grouped: dict[str, list[Asset]] = {}
    for asset in assets:
        grouped.setdefault(asset.key, []).append(asset)
    for versions in grouped.values():
        yield sorted(versions, key=lambda asset: asset.version)


def _manifest(assets: list[Asset]) -> bytes:
    records = [asset.to_json() for asset in assets]
    text = canonical({"format": _FORMAT, "version": _VERSION, "assets": records})
    return canonical({"digest": digest_of(text), "manifest": text}).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o600
    archive.addfile(member, io.BytesIO(content))


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
