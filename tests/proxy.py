"""A loopback HTTP proxy, with real sockets, that makes requests go wrong.

It stands in front of a server: clients are given its URL in place of the server's. Each request is
drawn a fate; the server sees those that are forwarded, and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS: Final = (
    "throttle 429",  # refused: too many requests
    "slow down 503",  # refused: slow down
    "error 500",  # not done, an error is sent
    "late 500",  # done, but an error is sent
    "reset before",  # connection reset, nothing was done
    "reset within",  # done; connection reset in the middle of the reply
    "lost reply",  # done, but the connection closes without a reply
    "silence",  # not done, nothing is sent
    "stall",  # done; the reply stops in the middle and the connection stays open
    "short read",  # done; the connection closes in the middle of the reply
)
NOT_DONE: Final = frozenset(
    {"throttle 429", "slow down 503", "error 500", "reset before", "silence"}
)
_REFUSALS: Final = {
    "throttle 429": ("429 Too Many Requests", "TooManyRequests"),
    "slow down 503": ("503 Slow Down", "SlowDown"),
    "error 500": ("500 Internal Server Error", "InternalError"),
    "late 500": ("500 Internal Server Error", "InternalError"),
}
_HELD_SECONDS: Final = 30.0
_LIMIT: Final = 64 << 20


@dataclass
class Tally:
    """What the proxy saw and did."""

    requests: int = 0
    by_method: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    puts: Counter[str] = field(default_factory=Counter)

    def repeated(self, key: str) -> bool:
        """Tell whether an object was put more than once: an attempt may arrive late."""
        return sum(n for path, n in self.puts.items() if path.endswith(f"/{key}")) > 1


class FaultyProxy:
    """A proxy in front of ``url``, served by a thread of its own.

    Parameters
    ----------
    url : str
        Of the server, ``http`` only.
    seed : int
        Of the faults drawn.
    """

    def __init__(self, url: str, seed: int = 0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._random = random.Random(seed)
        self._rates: dict[str, float] = {}
        self._matches: Callable[[str, str], bool] = lambda method, target: True
        self._next: list[str] = []
        self._tasks: set[asyncio.Task[None] | None] = set()
        self.tally = Tally()
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        """Serve while the context lasts."""
        ready = threading.Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LIMIT)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._server = server
            ready.set()

        def body() -> None:
            loop.run_until_complete(serve())
            loop.run_forever()

        async def stop() -> None:
            self._server.close()
            # Connections that were waiting to be accepted become tasks meanwhile.
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.sleep(0.01)

        thread = threading.Thread(target=body, name="faulty-proxy", daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def draw(self, rate: float, *kinds: str) -> None:
        """Have each of ``kinds`` befall this part of all requests from now on."""
        self._rates = dict.fromkeys(kinds, rate)

    def next(self, *kinds: str, method: str = "", contains: str = "") -> None:
        """Have these faults befall the next requests that match, one each."""
        self._matches = lambda m, target: method in {"", m} and contains in target
        self._next = list(kinds)

    def _fate(self, method: str, target: str) -> str | None:
        self.tally.requests += 1
        self.tally.by_method[method] += 1
        if method == "PUT":
            self.tally.puts[target.partition("?")[0]] += 1
        fate = None
        if self._next and self._matches(method, target):
            fate = self._next.pop(0)
        elif self._rates:
            drawn = self._random.random()
            for kind, rate in self._rates.items():
                if drawn < rate:
                    fate = kind
                    break
                drawn -= rate
        if fate is not None:
            self.tally.faults[fate] += 1
        return fate

    # ---------------------------------------------------------------- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        task = asyncio.current_task()
        self._tasks.add(task)  # asyncio itself keeps no hold of it once the client has gone
        try:
            while (request := await _read_message(reader)) is not None:
                head, body = request
                method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
                if _expects_go_ahead(head):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    body = await _read_body(reader, head, is_reply=False)
                fate = self._fate(method, target)
                if fate not in NOT_DONE:
                    if upstream is None:
                        upstream = await asyncio.open_connection(
                            self._host, self._port, limit=_LIMIT
                        )
                    upstream[1].write(_without_expectation(head) + body)
                    reply = await _read_message(upstream[0], to=method)
                    if reply is None or b"connection: close" in reply[0].lower():
                        upstream[1].close()
                        upstream = None
                    if reply is None:
                        return
                else:
                    reply = (b"", b"")
                if not await self._answer(writer, fate, *reply):
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # swallowed, because asyncio's streams complain about cancelled callbacks
        finally:
            self._tasks.discard(task)
            if upstream is not None:
                upstream[1].close()
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, fate: str | None, head: bytes, body: bytes
    ) -> bool:
        """Send a reply, or what is left of it; return whether the connection goes on."""
        if fate is None:
            writer.write(head + body)
            await writer.drain()
            return b"connection: close" not in head.lower()
        if fate in _REFUSALS:
            status, code = _REFUSALS[fate]
            text = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
                f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
            )
            await writer.drain()
            return True
        part = head + body[: len(body) // 2] if body else head[: len(head) // 2]
        if fate in {"reset within", "stall", "short read"}:
            writer.write(part)
            await writer.drain()
        if fate in {"silence", "stall"}:
            await asyncio.sleep(_HELD_SECONDS)
        if fate.startswith("reset"):
            await asyncio.sleep(0.005)  # so that what was sent arrives first
            _reset(writer)
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_message(
    reader: asyncio.StreamReader, to: str | None = None
) -> tuple[bytes, bytes] | None:
    """Return head and body of a request, or of the reply to a request of method ``to``."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    if to is None and _expects_go_ahead(head):
        return head, b""
    if to == "HEAD" or head.split(b" ", 2)[1] in {b"204", b"304"}:
        return head, b""
    return head, await _read_body(reader, head, is_reply=to is not None)


async def _read_body(reader: asyncio.StreamReader, head: bytes, *, is_reply: bool) -> bytes:
    headers = _headers(head)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += line + await reader.readexactly(size + 2)
            if size == 0:
                return body
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read() if is_reply else b""


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _expects_go_ahead(head: bytes) -> bool:
    return _headers(head).get("expect", "").lower() == "100-continue"


def _without_expectation(head: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
    return b"\r\n".join(lines)
