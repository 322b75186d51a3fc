"""The seal on what this installation's own forge made: an HMAC with its local key.

Exported programs and compiler caches are opened only under it: they are the one exception to
"nothing from disk is unpickled". Another key's seal, or one on other content, is no seal.
"""

from esper_async.leyline.signing import Signer
from esper_async.urza.errors import SealError
from esper_async.urza.records import Asset


class Seal:
    """Made and checked with `signer`; without one nothing can be sealed and no seal holds."""

    def __init__(self, signer: Signer | None) -> None:
        self._signer = signer

    def of(self, key: str, blob: str) -> str:
        """The seal of content with that SHA-256 under that key, in hexadecimal.

        Raises SealError without a signer.
        """
        if self._signer is None:
            raise SealError(f"{key!r} cannot be sealed: the library was opened without a signer")
        return self._signer.sign(_sealed(key, blob)).hex()

    def holds(self, asset: Asset) -> bool:
        """Whether the asset carries a seal that the local key, or one it replaced, has made."""
        try:
            signature = bytes.fromhex(asset.seal)
        except ValueError:
            return False
        if self._signer is None or not signature:
            return False
        return self._signer.verify(_sealed(asset.key, asset.blob), signature)


def _sealed(key: str, blob: str) -> bytes:
    return f"esper.urza.seal.v1\n{blob}\n{key}".encode()
