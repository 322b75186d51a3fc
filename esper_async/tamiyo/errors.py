"""What can go wrong when the picture of a run is kept."""


class MalformedRecordError(ValueError):
    """A journal record lacks a field or holds a value of the wrong kind; the message says which."""


class UnknownRunError(LookupError):
    """No run of this id is known here."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r} is known; list the runs with `esper-supervisor runs`")
        self.run_id = run_id


class PolicyFileError(ValueError):
    """A policy's file cannot be used; the message says why, and what would be right."""


class CorruptPolicyError(PolicyFileError):
    """The file is not what was written: cut short, changed, or no policy at all."""


class GraphMismatchError(PolicyFileError):
    """The policy was trained for other features than this program's graphs have."""
