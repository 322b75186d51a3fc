"""Why the supervisor could not start or go on; each message names the thing and the remedy."""


class SupervisorError(Exception):
    """Base of the supervisor's own errors; `exit_code` is what the process ends with."""

    exit_code = 1


class StateDirError(SupervisorError):
    """The state directory cannot be used."""

    exit_code = 2


class AlreadyRunningError(SupervisorError):
    """Another supervisor holds the state directory."""


class BackupError(SupervisorError):
    """A backup could not be made, or not be restored."""


class WrongBackupError(BackupError):
    """A backup was asked for, or asked to be restored, where that cannot be."""

    exit_code = 2


class PortTakenError(SupervisorError):
    """The address is taken, or may not be listened on."""


class StartError(SupervisorError):
    """A service failed before it was ever ready."""

    def __init__(self, name: str, reason: BaseException | str) -> None:
        super().__init__(f"{name} could not start: {reason}")
        self.name = name


class UnstableError(SupervisorError):
    """Services were restarted more often, all together, than the tree allows."""

    exit_code = 3

    def __init__(
        self, limit: int, window_s: float, name: str, reason: BaseException | None
    ) -> None:
        super().__init__(
            f"services had to be restarted more than {limit} times within {window_s:g} s, so what "
            f"ails them is common to them; the last was {name}: {reason}"
        )


class EssentialServiceFailedError(SupervisorError):
    """An essential service went past its restart limit."""

    exit_code = 3

    def __init__(self, name: str, restarts: int, reason: BaseException | None) -> None:
        times = "once" if restarts == 1 else f"{restarts} times"
        super().__init__(
            f"{name}, which is essential, was restarted {times} and failed again: {reason}"
        )
        self.name = name
