"""What the loopback servers of the tests share: a log of requests, and faults on request."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Controlled:
    """A running server that can be asked what it saw and told what to do wrong."""

    url: str

    def ask(self, path: str, content: object = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{self.url}/_test/{path}", data=data) as reply:
            return json.load(reply)

    def fault(self, action: str, method: str, contains: str, count: int = 1) -> None:
        """Have the next ``count`` matching requests go wrong.

        Actions: ``lose`` (done, but the connection closes without a reply), ``late-500`` (done,
        but the reply is an error), a status (not done), ``sleep`` (done a second later).
        """
        self.ask(
            "fault", {"action": action, "method": method, "contains": contains, "count": count}
        )

    def no_faults(self) -> None:
        """Forget the faults that did not happen."""
        self.ask("no-faults", {})

    def requests(self, contains: str) -> list[dict[str, Any]]:
        """Return method, path with query, and headers (lower case) of requests so far."""
        return [r for r in self.ask("requests", {}) if contains in r["path"]]


@contextlib.contextmanager
def serving(program: str, *arguments: str) -> Iterator[str]:
    """Run a server program of the tests; yield the URL it prints, and stop it in the end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_", "GOOGLE_"))}
    process = subprocess.Popen(
        [sys.executable, program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean | {"PYTHONWARNINGS": "ignore"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        assert url, f"{program} did not start"
        yield url
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)


class ControlledHandler(http.server.BaseHTTPRequestHandler):
    """Logs requests, does the faults, and leaves the rest to ``serve``."""

    protocol_version = "HTTP/1.1"
    guard = threading.Lock()
    faults: list[dict[str, Any]] = []
    log: list[dict[str, Any]] = []
    action: str | None = None

    def serve(self, body: bytes) -> None:
        """Answer a request."""
        raise NotImplementedError

    def control(self, name: str, content: Any) -> Any:
        """Answer a request to the server's own controls."""
        if name == "fault":
            self.faults.append(content)
        elif name == "no-faults":
            self.faults.clear()
        elif name == "requests":
            return self.log
        return None

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a reply; underscores in names of headers are dashes."""
        if self.action == "late-500":
            status, body = 500, b"made up"
        if self.action == "lose":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.action = None
        if self.path.startswith("/_test/"):
            with self.guard:
                answer = self.control(self.path[7:], json.loads(body or b"null"))
            self.reply(200, json.dumps(answer).encode())
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.guard:
            path = unquote(self.path)  # libraries differ in what they quote
            self.log.append({"method": self.command, "path": path, "headers": headers})
            for fault in self.faults:
                if fault["count"] and fault["method"] == self.command and fault["contains"] in path:
                    fault["count"] -= 1
                    self.action = fault["action"]
                    break
        if self.action is not None and self.action.isdigit():
            self.reply(int(self.action), b"made up")
            return
        if self.action == "sleep":
            time.sleep(1)
        self.serve(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _take

    def log_message(self, *_: object) -> None:
        pass


def serve_until_told(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> None:
    """Serve on a free port, print the URL, and end with standard input."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)
