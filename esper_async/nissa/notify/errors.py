"""What can go wrong when a channel is spoken to."""


class DeliveryError(Exception):
    """A channel did not take a message.

    `lasting` says that trying again is of no use; `after_s`, where the other side named it, is how
    long to wait before the next attempt.
    """

    def __init__(self, reason: str, *, lasting: bool = False, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.lasting = lasting
        self.after_s = after_s
