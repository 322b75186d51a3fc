"""Why the supervisor could not start or go on; each message names the thing and the remedy."""


class SupervisorError(Exception):
    """Base of the supervisor's own errors; `exit_code` is what the process ends with."""

    exit_code = 1


class StateDirError(SupervisorError):
    """The state directory cannot be used."""

    exit_code = 2


class AlreadyRunningError(SupervisorError):
    """Another supervisor holds the state directory."""


class PortTakenError(SupervisorError):
    """The address is taken, or may not be listened on."""


class StartError(SupervisorError):
    """A service failed before it was ever ready."""

    def __init__(self, name: str, reason: BaseException | str) -> None:
        super().__init__(f"{name} could not start: {reason}")
        self.name = name


class EssentialServiceFailedError(SupervisorError):
    """An essential service went past its restart limit."""

    exit_code = 3

    def __init__(self, name: str, restarts: int, reason: BaseException | None) -> None:
        times = "once" if restarts == 1 else f"{restarts} times"
        super().__init__(
            f"{name}, which is essential, was restarted {times} and failed again: {reason}"
        )
        self.name = name
