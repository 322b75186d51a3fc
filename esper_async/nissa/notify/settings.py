"""Where alerts are sent; a channel whose address is empty does not exist."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyOptions:
    """Addresses and times. `page_url` is put into messages as the way back to the page.

    `smtp_url` is `smtp://[user:password@]host[:port]`, with STARTTLS where the server offers it, or
    `smtps://` for TLS from the start. Times are in seconds.
    """

    webhook_url: str = ""
    slack_url: str = ""
    pagerduty_key: str = ""
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    smtp_url: str = ""
    mail_from: str = "esper@localhost"
    mail_to: str = ""
    page_url: str = ""
    group_wait_s: float = 10.0
    repeat_every_s: float = 4 * 3_600.0
    timeout_s: float = 10.0
    attempts: int = 5
    first_retry_s: float = 5.0
