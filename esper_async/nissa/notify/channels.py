"""The channels that are spoken to over HTTP: webhook, chat, pager."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from esper_async.nissa.notify.errors import DeliveryError
from esper_async.nissa.notify.mail import MailChannel
from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.nissa.notify.wording import Alert, chat_body, pager_body, webhook_body

_TOO_MANY, _TIMEOUT, _SERVER_ERROR = 429, 408, 500
Bodies = Callable[[Sequence[Alert]], list[dict[str, Any]]]


class Channel(Protocol):
    """One way to tell somebody. `role` is what an alert's routes name; empty: told everything."""

    @property
    def name(self) -> str:
        """The kind of channel."""
        ...

    @property
    def role(self) -> str:
        """For whom it stands in routes."""
        ...

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Tell of a group of alerts of one name; raises DeliveryError."""
        ...


class HttpChannel:
    """A channel that takes JSON by POST."""

    def __init__(self, name: str, role: str, url: str, bodies: Bodies, *, timeout_s: float) -> None:
        self.name = name
        self.role = role
        self._url = url
        self._bodies = bodies
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Post each body; raises DeliveryError.

        When a later one fails all are sent again: receivers know an alert by its id.
        """
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            for body in self._bodies(alerts):
                await self._post(session, body)

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        place = urlsplit(self._url).netloc.rpartition("@")[2]  # the path of a webhook is a secret
        try:
            async with session.post(self._url, json=body, allow_redirects=False) as answer:
                status, text = (
                    answer.status,
                    (await answer.content.read(300)).decode("utf-8", "replace"),
                )
                after = answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = type(error).__name__ if isinstance(error, TimeoutError) else str(error)
            raise DeliveryError(f"{place} could not be reached: {said}") from error
        if 200 <= status < 300:
            return
        again = status in (_TOO_MANY, _TIMEOUT) or status >= _SERVER_ERROR
        raise DeliveryError(
            f"{place} answered {status}: {' '.join(text.split())}",
            lasting=not again,
            after_s=float(after) if after.isdecimal() else None,
        )


def channels_of(options: NotifyOptions) -> list[Channel]:
    """The channels that have an address."""
    page, timeout_s = options.page_url, options.timeout_s
    found: list[Channel] = []
    if options.webhook_url:
        found.append(
            HttpChannel(
                "webhook", "", options.webhook_url,
                lambda alerts: [webhook_body(alerts, page)], timeout_s=timeout_s,
            )
        )  # fmt: skip
    if options.slack_url:
        found.append(
            HttpChannel(
                "slack", "chat", options.slack_url,
                lambda alerts: [chat_body(alerts, page)], timeout_s=timeout_s,
            )
        )  # fmt: skip
    if options.pagerduty_key:
        key = options.pagerduty_key
        found.append(
            HttpChannel(
                "pagerduty", "pager", options.pagerduty_url,
                lambda alerts: [pager_body(alert, key, page) for alert in alerts],
                timeout_s=timeout_s,
            )
        )  # fmt: skip
    if options.smtp_url and options.mail_to:
        found.append(MailChannel(options))
    return found
