"""What Karn refuses, by case."""


class KarnError(Exception):
    """Base of every error this package raises on purpose."""


class UnknownBlueprintError(KarnError):
    """There is no blueprint with this id."""


class QuarantinedError(KarnError):
    """An adversarial blueprint was asked for outside a drill."""


class QueryRefusedError(KarnError):
    """A query asks for something that cannot be: an unknown tier, a negative budget."""
