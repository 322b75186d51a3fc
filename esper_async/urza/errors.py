"""What can go wrong in the library, so that a caller can tell the cases apart."""


class UrzaError(Exception):
    """Something the library was asked for cannot be done."""


class UnknownAssetError(UrzaError):
    """No asset of that id is in the catalogue."""

    def __init__(self, asset_id: str) -> None:
        super().__init__(f"no asset {asset_id!r} is in the catalogue")
        self.asset_id = asset_id


class IllegalLifecycleError(UrzaError):
    """A lifecycle step that the rules do not allow; nothing was changed."""

    def __init__(self, asset_id: str, current: str, wanted: str) -> None:
        super().__init__(f"asset {asset_id!r} is {current}; it cannot become {wanted}")
        self.asset_id = asset_id


class QueryTimeoutError(UrzaError):
    """A query was not answered in the time that it had."""


class SealError(UrzaError):
    """Something was to be sealed, and the library was opened without the key for it."""


class ArchiveError(UrzaError):
    """An archive is damaged, or not one of ours; nothing of it was taken in."""


class DamagedRecordError(UrzaError):
    """A catalogue row or sidecar does not match its digest. Never leaves the library."""
