"""Requests over HTTP by aiohttp: connections, retries, times, and what statuses mean.

Clients are tied to the I/O thread's loop.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from icechunk.errors import ErrorKind, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from icechunk.storage.retry import Backoff
    from icechunk.storage_settings import StorageSettings

_CONNECTIONS: Final = 256
_CONNECT_SECONDS: Final = 10.0
_LARGE_BYTES: Final = 1 << 19
_READ_SECONDS: Final = 60.0

MISSING: Final = frozenset({404, 410})
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that another attempt may not meet."""
THROTTLED: Final = frozenset({429, 503})

# No reply, or half of one.
NETWORK_ERRORS: Final = (aiohttp.ClientError, TimeoutError, ConnectionError)

_ACTING: Final = frozenset(
    {"allow_http", "connect_timeout", "proxy_url", "read_timeout", "timeout", "user_agent"}
)
# Tuning of the reference implementation's HTTP library, without a meaning for what is read.
_ACCEPTED: Final = frozenset(
    {
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_max_frame_size",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "randomize_addresses",
    }
)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "sec": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """How web servers are reached, from the options of the official API.

    Parameters
    ----------
    connect_seconds, read_seconds, whole_seconds : float or None
        Limits of making a connection, of waiting for bytes, and of one attempt.
    proxy : str or None
        Server that passes requests on.
    user_agent : str or None
        What requests say they come from.
    """

    connect_seconds: float | None = None
    read_seconds: float | None = None
    whole_seconds: float | None = None
    proxy: str | None = None
    user_agent: str | None = None

    @classmethod
    def parse(cls, options: Mapping[str, str], others: frozenset[str]) -> WebOptions:
        """Read the options that every HTTP client has.

        Parameters
        ----------
        options : mapping of str to str
            As the user gave them.
        others : frozenset of str
            Names that mean something to the caller.

        Raises
        ------
        InvalidInputError
            Kind ``storage-config``; an option that nobody knows, or a time that is none.
        """
        unknown = sorted(set(options) - others - _ACTING - _ACCEPTED)
        if unknown:
            known = ", ".join(sorted(others | _ACTING))
            raise InvalidInputError(
                f"unknown options {', '.join(unknown)}; known are {known}",
                ErrorKind.STORAGE_CONFIG,
            )
        return cls(
            connect_seconds=_seconds(options, "connect_timeout"),
            read_seconds=_seconds(options, "read_timeout"),
            whole_seconds=_seconds(options, "timeout"),
            proxy=options.get("proxy_url"),
            user_agent=options.get("user_agent"),
        )

    def limits(self, settings: StorageSettings) -> WebLimits:
        """Return the limits in force: those of the settings, of these options, or the usual."""
        timeouts = settings.timeouts
        connect_ms = timeouts.connect_timeout_ms if timeouts else None
        read_ms = timeouts.read_timeout_ms if timeouts else None
        attempt_ms = timeouts.operation_attempt_timeout_ms if timeouts else None
        whole = self.whole_seconds
        return WebLimits(
            connect_seconds=_limit(connect_ms, self.connect_seconds, _CONNECT_SECONDS),
            read_seconds=_limit(read_ms, self.read_seconds, _READ_SECONDS),
            whole_seconds=whole if attempt_ms is None else attempt_ms / 1000,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """How long requests may take.

    Parameters
    ----------
    connect_seconds, read_seconds : float
        For making a connection, and between two arrivals of bytes.
    whole_seconds : float or None
        For one attempt; None without a limit.
    """

    connect_seconds: float
    read_seconds: float
    whole_seconds: float | None


def _limit(milliseconds: int | None, seconds: float | None, default: float) -> float:
    if milliseconds is not None:
        return milliseconds / 1000
    return default if seconds is None else seconds


def _seconds(options: Mapping[str, str], name: str) -> float | None:
    text = options.get(name)
    if text is None:
        return None
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip() or "s"
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError) as error:
        raise InvalidInputError(
            f"option {name} is no time: {text!r}; expected seconds, such as '30s'",
            ErrorKind.STORAGE_CONFIG,
        ) from error


def obstacle_in_url(url: str) -> str | None:
    """Return what of the URL of a server obstore cannot do; None if it can do everything."""
    parts = urlsplit(url)
    if "@" in parts.netloc:  # its errors would show it
        return "a login in a URL"
    if parts.query:  # they would show this too, and it may be a signature
        return "a query in a URL"
    return None


def is_on(options: Mapping[str, str], *names: str) -> bool:
    """Tell whether one of these options is set to a word for yes."""
    return any(options.get(name, "").lower() in {"1", "true", "yes", "on"} for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply.

    Parameters
    ----------
    status : int
        Of HTTP.
    headers : mapping
        Found in any case of letters.
    body : bytes
        As sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_good(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    def total_bytes(self) -> int | None:
        """Return the size of the object that this reply has a range of."""
        total = self.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None

    def modified_us(self) -> int | None:
        """Return when the object was last written, in microseconds since the Unix epoch."""
        text = self.headers.get("Last-Modified")
        try:
            return None if text is None else round(parsedate_to_datetime(text).timestamp() * 1e6)
        except ValueError:
            return None


class WebClient:
    """Connections to web servers.

    Parameters
    ----------
    session : aiohttp.ClientSession
        Of the running loop.
    options : WebOptions
        Those that hold for each request.
    attempt_seconds : float or None
        Limit of one request.
    """

    def __init__(
        self, session: aiohttp.ClientSession, options: WebOptions, attempt_seconds: float | None
    ) -> None:
        self._session = session
        self._proxy = options.proxy
        self._attempt_seconds = attempt_seconds

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | memoryview | None = None,
        follow: bool = True,
    ) -> Reply:
        """Make one request and read the whole reply; errors come as the library makes them."""
        async with (
            asyncio.timeout(self._attempt_seconds),
            self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                # In one piece a large body would hold the loop up.
                data=body if body is None or len(body) < _LARGE_BYTES else io.BytesIO(body),
                allow_redirects=follow,
                proxy=self._proxy,
            ) as reply,
        ):
            content = await reply.read()
            return Reply(status=reply.status, headers=reply.headers, body=content)


async def open_web(options: WebOptions, settings: StorageSettings) -> WebClient:
    """Open a client; awaited on the I/O thread's loop, to which it is tied."""
    limits = options.limits(settings)
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
        ),
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        auto_decompress=False,  # an object is the bytes that are stored
        trust_env=True,
        skip_auto_headers=("Accept-Encoding", "Content-Type"),
        headers={"User-Agent": options.user_agent} if options.user_agent else None,
    )
    # It would send a request whose connection was closed once more and tell nobody; what is worth
    # another attempt is decided here.
    session._retry_connection = False  # noqa: SLF001 (there is no public switch)
    return WebClient(session, options, limits.whole_seconds)


async def ask_patiently(send: Callable[[], Awaitable[Reply]], backoff: Backoff) -> Reply:
    """Make a request that may be made twice, until it is answered or the tries are used up.

    Parameters
    ----------
    send : callable
        Makes it once.
    backoff : Backoff
        How often and how soon.

    Returns
    -------
    Reply
        The last one, which may be a refusal.
    """
    delays = backoff.delays()
    while True:
        delay = next(delays, None)
        try:
            reply = await send()
            if reply.status not in PASSING or delay is None:
                return reply
        except NETWORK_ERRORS:
            if delay is None:
                raise
        await backoff.sleep(delay)


def refusal(where: str, status: int, advice: Mapping[int, str]) -> StorageError:
    """Return our error for a reply that is none of success.

    Parameters
    ----------
    where : str
        What was tried, such as ``read gs://bucket/key``.
    status : int
        Of the reply.
    advice : mapping of int to str
        What to do about a status.
    """
    if status in MISSING:
        return StorageError(f"cannot {where}: no such object", ErrorKind.OBJECT_NOT_FOUND)
    if status in THROTTLED:
        return StorageError(
            f"cannot {where}: the service asks to slow down, also after all retries; lower "
            "max_concurrent_requests or try again later",
            ErrorKind.THROTTLED,
        )
    if status == 416:
        return StorageError(
            f"cannot {where}: the object ends before the range asked for. It was cut short or "
            "replaced from outside",
            ErrorKind.INVALID_OBJECT_SIZE,
        )
    words = advice.get(status, "the server gave no reason")
    return StorageError(f"cannot {where}: status {status}: {words}")


def unanswered(where: str, why: BaseException | str) -> StorageError:
    """Return our error for a request without a reply."""
    what = str(why) or type(why).__name__
    if isinstance(why, TimeoutError):
        what = "timeout: no answer in time"
    return StorageError(f"cannot {where}: {what}; check the address and the network")
