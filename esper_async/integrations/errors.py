"""What the callbacks refuse, and how a missing package is told."""


class UnsupportedLoopError(ValueError):
    """A trainer is set to do what growth cannot follow; the message says what to set instead."""


class MissingPackageError(ImportError):
    """The package that a callback is for is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this callback needs the package {package!r}, which is not installed; "
            f"pip install 'esper-async[{extra}]'",
            name=package,
        )
