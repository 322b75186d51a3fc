"""The signing key: where it is kept and how it is made.

A key file holds one key a line, as hex digits. The first one signs; the others are still accepted
for reading, each until the Unix time that may stand behind it:

    9f2c...  # what is signed from now on
    41ab... until=1790000000

`esper_async.leyline.rotate` puts a new key in front.
"""

import math
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from esper_async.leyline.signing import KEY_BYTES, Signer

SECRET_VARIABLE = "ESPER_LEYLINE_SECRET"  # noqa: S105 - the variable's name, not a secret
UNTIL = "until="


def load_key(path: Path, environment: Mapping[str, str] | None = None) -> bytes:
    """Return the key that signs; see `load_keys`."""
    return load_keys(path, environment)[0]


def load_signer(path: Path, environment: Mapping[str, str] | None = None) -> Signer:
    """Return a signer under the first key that accepts the others; see `load_keys`."""
    (key, _), *older = _load(path, environment, time.time())
    return Signer(key, also_accept=older)


def load_keys(
    path: Path, environment: Mapping[str, str] | None = None, *, now: float | None = None
) -> list[bytes]:
    """Return the keys from ESPER_LEYLINE_SECRET or else from `path`, which is made if missing.

    The variable holds 64 hex digits a key, several separated by commas. Raises ValueError when
    one is no key, PermissionError when others can read the file.
    """
    return [key for key, _ in _load(path, environment, time.time() if now is None else now)]


def _load(
    path: Path, environment: Mapping[str, str] | None, now: float
) -> list[tuple[bytes, float]]:
    """Return the keys, each with the Unix time until which it is accepted."""
    secret = (os.environ if environment is None else environment).get(SECRET_VARIABLE)
    if secret:
        keys = [_decode(each.strip(), SECRET_VARIABLE) for each in secret.split(",")]
        return [(key, math.inf) for key in keys]
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _make_file(path)
    with os.fdopen(handle) as file:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise PermissionError(f"{path} can be read by others; run: chmod 600 {path}")
        return _read(file.read(), str(path), now)


def _read(text: str, origin: str, now: float) -> list[tuple[bytes, float]]:
    """Return the keys of a file that are still accepted; the first one always is."""
    keys: list[tuple[bytes, float]] = []
    for words in filter(None, map(key_words, text.splitlines())):
        try:
            until = float(words[1].removeprefix(UNTIL)) if len(words) > 1 else math.inf
        except ValueError:
            raise ValueError(f"{origin}: {words[1]!r} is not {UNTIL}UNIX_TIME") from None
        if not keys or now < until:
            keys.append((_decode(words[0], origin), until))
    return keys or [(_decode("", origin), math.inf)]


def key_words(line: str) -> list[str]:
    """Return a line's key and what stands behind it; nothing for a comment."""
    return line.partition("#")[0].split()


def _decode(text: str, origin: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{origin} must hold {KEY_BYTES * 2} hex digits (openssl rand -hex 32)")
    return key


def _make_file(path: Path) -> list[tuple[bytes, float]]:
    """Create the key file atomically; of several makers the first one wins."""
    key = os.urandom(KEY_BYTES)
    scratch = write_private(path, [key.hex()])
    try:
        os.link(scratch, path)
    except FileExistsError:
        return _load(path, {}, time.time())
    finally:
        scratch.unlink()
    return [(key, math.inf)]


def write_private(path: Path, lines: Sequence[str]) -> Path:
    """Write lines, fsynced, to a new file beside `path` that only its owner can read."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(handle)
    return scratch
