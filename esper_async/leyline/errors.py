"""Why a message was refused."""

from enum import StrEnum


class Refusal(StrEnum):
    """The reasons for which a message is refused; each is counted under its own label."""

    OVERSIZED = "oversized"
    UNSIGNED = "unsigned"
    FORGED = "forged"
    MALFORMED = "malformed"
    WRONG_VERSION = "wrong_version"
    UNKNOWN_TYPE = "unknown_type"
    WRONG_TOPIC = "wrong_topic"
    INVALID = "invalid"
    EXPIRED = "expired"
    STALE = "stale"
    FROM_THE_FUTURE = "from_the_future"
    REPLAYED = "replayed"
    OVERLOADED = "overloaded"


class Refused(ValueError):  # noqa: N818 - "refused" is the state callers handle
    """A message that must not be acted on; `reason` is countable, `detail` is for people."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
