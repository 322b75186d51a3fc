"""Mail over SMTP, from a worker thread."""

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

from esper_async.nissa.notify.errors import DeliveryError
from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.nissa.notify.wording import Alert, mail_message

_LASTING = 500


class MailChannel:
    """Sends mail to one list of addresses."""

    name = "smtp"
    role = "mail"

    def __init__(self, options: NotifyOptions) -> None:
        address = urlsplit(options.smtp_url)
        self._tls = address.scheme == "smtps"
        self._host = address.hostname or "localhost"
        self._port = address.port or (465 if self._tls else 25)
        self._user = unquote(address.username or "")
        self._password = unquote(address.password or "")
        self._options = options

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Send one mail about the group; raises DeliveryError."""
        options = self._options
        message = mail_message(alerts, options.mail_from, options.mail_to, options.page_url)
        try:
            await asyncio.to_thread(self._send, message)
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            raise DeliveryError(
                f"{self._host}:{self._port} answered {error.smtp_code}: {text}",
                lasting=error.smtp_code >= _LASTING,
            ) from error
        except smtplib.SMTPRecipientsRefused as error:
            raise DeliveryError(
                f"{self._host}:{self._port} refuses {', '.join(error.recipients)}", lasting=True
            ) from error
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"{self._host}:{self._port}: {error}") from error

    def _send(self, message: EmailMessage) -> None:
        timeout_s, context = self._options.timeout_s, ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(self._host, self._port, timeout=timeout_s, context=context)
            if self._tls
            else smtplib.SMTP(self._host, self._port, timeout=timeout_s)
        ) as server:
            if not self._tls:
                server.ehlo()
                if server.has_extn("starttls"):
                    server.starttls(context=context)
            if self._user:
                server.login(self._user, self._password)
            server.send_message(message)
