"""Signatures, keys and nonces for what crosses the bus."""

import hmac
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS
from esper_async.leyline.v1.commands_pb2 import AdaptationCommand

KEY_BYTES = 32
SIGNATURE_BYTES = 32
NONCE_BYTES = 16
SECRET_VARIABLE = "ESPER_LEYLINE_SECRET"  # noqa: S105 - the variable's name, not a secret


class Signer:
    """HMAC-SHA256 under one key; further keys are accepted for reading while they overlap."""

    def __init__(self, key: bytes, *, also_accept: Sequence[bytes] = ()) -> None:
        self._keys = (key, *also_accept)
        if any(len(each) != KEY_BYTES for each in self._keys):
            raise ValueError(f"a signing key has {KEY_BYTES} bytes")

    def sign(self, data: bytes) -> bytes:
        """Return the 32-byte signature of `data`."""
        return hmac.digest(self._keys[0], data, "sha256")

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether one of the keys made `signature`; takes constant time a key."""
        good = False
        for key in self._keys:
            good |= hmac.compare_digest(hmac.digest(key, data, "sha256"), signature)
        return good


def load_key(path: Path, environment: Mapping[str, str] | None = None) -> bytes:
    """Return the key from ESPER_LEYLINE_SECRET (64 hex digits) or from `path`, made if missing.

    Raises ValueError when the secret is no key, PermissionError when others can read the file.
    """
    secret = (os.environ if environment is None else environment).get(SECRET_VARIABLE)
    if secret:
        return _decode(secret, SECRET_VARIABLE)
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _make_key(path)
    with os.fdopen(handle) as file:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise PermissionError(f"{path} can be read by others; run: chmod 600 {path}")
        return _decode(file.read().strip(), str(path))


def _decode(text: str, origin: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{origin} must hold {KEY_BYTES * 2} hex digits (openssl rand -hex 32)")
    return key


def _make_key(path: Path) -> bytes:
    """Create the key file atomically; of several makers the first one wins."""
    key = os.urandom(KEY_BYTES)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(handle)
        os.link(scratch, path)
    except FileExistsError:
        return load_key(path, {})
    finally:
        scratch.unlink()
    return key


class NonceStore:
    """Remembers nonces for their lifetime. `holder` may present the same nonce again.

    A delivery that is repeated after a failure is the same holder; a replay is another one.
    """

    def __init__(
        self,
        *,
        lifetime_s: float = LIMITS.nonce_lifetime_s,
        capacity: int = LIMITS.nonce_capacity,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._capacity = capacity
        self._monotonic = monotonic
        self._seen: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def use(self, nonce: bytes, holder: str) -> None:
        """Take `nonce` for `holder`. Raises Refused when another holder took it, or when full."""
        now = self._monotonic()
        while self._seen and next(iter(self._seen.values()))[0] <= now:
            self._seen.popitem(last=False)
        if known := self._seen.get(nonce):
            if known[1] != holder:
                raise Refused(Refusal.REPLAYED, "this nonce was used before")
            return
        if len(self._seen) >= self._capacity:
            raise Refused(Refusal.OVERLOADED, f"{self._capacity} nonces are alive")
        self._seen[nonce] = (now + self._lifetime_s, holder)


def check_freshness(issued_at: float, now: float) -> None:
    """Raise Refused when a command of that Unix time is too old or from the future."""
    age_s = now - issued_at
    if age_s < -LIMITS.command_lead_s:
        raise Refused(Refusal.FROM_THE_FUTURE, f"issued {-age_s:.1f} s ahead of this clock")
    if not age_s <= LIMITS.command_age_s:
        raise Refused(Refusal.STALE, f"issued {age_s:.1f} s ago")


def sign_command(command: AdaptationCommand, signer: Signer) -> None:
    """Give `command` a nonce, unless it has one, and its signature."""
    if not command.nonce:
        command.nonce = os.urandom(NONCE_BYTES)
    command.ClearField("signature")
    command.signature = signer.sign(command.SerializeToString(deterministic=True))


def verify_command(command: AdaptationCommand, signer: Signer) -> None:
    """Raise Refused unless `command` carries a nonce and a true signature."""
    if not command.signature or not command.nonce:
        raise Refused(Refusal.UNSIGNED, "a command from the bus carries a nonce and a signature")
    bare = AdaptationCommand()
    bare.CopyFrom(command)
    bare.ClearField("signature")
    if not signer.verify(bare.SerializeToString(deterministic=True), command.signature):
        raise Refused(Refusal.FORGED, "the command's signature is not ours")
