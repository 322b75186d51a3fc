"""Where Redis is, as one URL: a server's own, or that of the Sentinels that know the present one.

    redis://user:password@host:6379/0            rediss:// with TLS, unix:///path for a socket
    redis+sentinel://user:password@host:26379,host:26379/NAME/0?sentinel_password=...

Everything behind `?` is redis-py's: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and so on. The
user and the password are the server's; Sentinels that want their own have `sentinel_username` and
`sentinel_password`.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

SENTINEL_PORT = 26_379
_SUFFIX = "+sentinel"
_FOR_SENTINELS = "sentinel_"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Sentinels, the name under which they watch the server, and how to talk to each kind."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    server_options: dict[str, Any]
    sentinel_options: dict[str, Any]


def sentinel_address(url: str) -> SentinelAddress | None:
    """Return what a Sentinel URL says; None for the URL of a server.

    Raises ValueError when it names no Sentinel or no server.
    """
    parts = urlsplit(url)
    if not parts.scheme.endswith(_SUFFIX):
        return None
    login, _, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not hosts or not name:
        raise ValueError(
            "a Sentinel URL has the form redis+sentinel://host:26379,host:26379/NAME/0, "
            "where NAME is the one in `sentinel monitor NAME ...`"
        )
    # redis-py reads the login and the options from the URL of a server; the host is Sentinel's
    server = f"{login}@host" if login else "host"
    plain = (parts.scheme.removesuffix(_SUFFIX), server, f"/{database or 0}", parts.query, "")
    options: dict[str, Any] = dict(parse_url(urlunsplit(plain)))
    options.pop("host", None)
    secure = options.pop("connection_class", None) is not None
    own = {key: options.pop(key) for key in list(options) if key.startswith(_FOR_SENTINELS)}
    ssl = {key: value for key, value in options.items() if key.startswith("ssl_")}
    return SentinelAddress(
        sentinels=tuple(_host_and_port(each) for each in hosts.split(",")),
        name=unquote(name),
        server_options=options | {"ssl": secure},
        sentinel_options={key.removeprefix(_FOR_SENTINELS): own[key] for key in own}
        | ({"ssl": True, **ssl} if secure else {}),
    )


def without_password(url: str) -> str:
    """Return the URL as it may be shown and logged; of one that is odd, no more than its scheme.

    A password with a `/` that was not written as %2F reaches beyond where one would look for it.
    """
    hidden = f"{url.partition('://')[0]}://***" if "://" in url else "***"
    try:
        parts = urlsplit(url)
    except ValueError:
        return hidden
    login, at, hosts = parts.netloc.rpartition("@")
    if not at and "@" in url:
        return hidden
    user = login.partition(":")[0]
    shown = f"{user}{':***' if ':' in login else ''}{at}{hosts}"
    return f"{parts.scheme}://{shown}{parts.path}"


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is not host:port")
    return parts.hostname, parts.port or SENTINEL_PORT
