"""A real S3 server on loopback, for tests: moto's, in a process of its own.

Beyond what moto's own server does: access keys and signatures are checked, writes are serialised
(moto looks and then writes, with nothing between the two to stop another thread), requests are
logged, and replies can be lost on purpose. Run as a program it prints its URL and serves until its
standard input ends; tests use `S3Server`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUCKET: Final = "test-bucket"
OPEN_BUCKET: Final = "open-bucket"
KEY, SECRET = "AKTESTKEYWRITER", "the-writer-secret"
READER_KEY, READER_SECRET = "AKTESTKEYREADER", "the-reader-secret"
_ACCOUNT: Final = "123456789012"
_CODES: Final = {
    "403": "AccessDenied",
    "429": "TooManyRequests",
    "500": "InternalError",
    "503": "SlowDown",
    "expired": "ExpiredToken",
}


@dataclass(frozen=True)
class S3Server:
    """A running server, and the library to reach it with."""

    url: str
    backend: str = "auto"

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[S3Server]:
        """Start a server process and stop it in the end."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))}
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean | {"INITIAL_NO_AUTH_ACTION_COUNT": "0", "PYTHONWARNINGS": "ignore"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            assert url, "the S3 server did not start"
            yield cls(url)
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(20)

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return arguments for `s3_storage`."""
        return {
            "bucket": BUCKET,
            "region": "us-east-1",
            "endpoint_url": self.url,
            "allow_http": True,
            "force_path_style": True,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
            "backend": self.backend,
        } | changes

    def _ask(self, path: str, content: object = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{self.url}/_test/{path}", data=data) as reply:
            return json.load(reply)

    def fault(self, action: str, method: str, contains: str, count: int = 1) -> None:
        """Have the next ``count`` matching requests go wrong.

        Actions: ``lose`` (done, but the connection closes without a reply), ``late-500`` (done,
        but the reply is an error), ``500``, ``503``, ``429`` and ``expired`` (not done), ``cut``
        (the reply ends halfway), ``sleep`` (done a second later).
        """
        self._ask(
            "fault", {"action": action, "method": method, "contains": contains, "count": count}
        )

    def no_faults(self) -> None:
        """Forget the faults that did not happen."""
        self._ask("no-faults", {})

    def requests(self, contains: str) -> list[dict[str, Any]]:
        """Return method, path, query and headers (lower case) of requests so far."""
        return [r for r in self._ask("requests") if contains in r["path"] + "?" + r["query"]]


class _App:
    """The WSGI application around moto's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._writes = threading.Lock()
        self._guard = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._requests: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/_test/"):
            size = int(environ.get("CONTENT_LENGTH") or 0)
            answer = self._control(path, json.loads(environ["wsgi.input"].read(size) or "null"))
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]
        headers = {
            k[5:].lower().replace("_", "-"): v for k, v in environ.items() if k[:5] == "HTTP_"
        }
        query = environ.get("QUERY_STRING", "")
        with self._guard:
            self._requests.append(
                {"method": method, "path": path, "query": query, "headers": headers}
            )
            action = self._next_fault(method, f"{path}?{query}")
        if action in {"500", "503", "429", "expired"}:
            return _error(action, start_response)
        if action == "sleep":
            time.sleep(1)
        may_read = method in {"GET", "HEAD"} and path.startswith(f"/{OPEN_BUCKET}/")
        if "authorization" not in headers and not may_read:
            return _error("403", start_response)
        alone = method != "GET" or "list-type" in query  # moto trips over what changes meanwhile
        with self._writes if alone else contextlib.nullcontext():
            replies: list[tuple[str, list[tuple[str, str]]]] = []
            body = b"".join(
                self._inner(environ, lambda status, hdrs, exc=None: replies.append((status, hdrs)))
            )
        if action == "late-500":
            return _error("500", start_response)
        if action == "lose":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response(*replies[-1])
        if action == "cut":
            return _cut(body, environ["werkzeug.socket"])
        return [body]

    def _next_fault(self, method: str, target: str) -> str | None:
        for fault in self._faults:
            if fault["count"] and fault["method"] == method and fault["contains"] in target:
                fault["count"] -= 1
                return str(fault["action"])
        return None

    def _control(self, path: str, content: Any) -> Any:
        with self._guard:
            if path == "/_test/fault":
                self._faults.append(content)
            elif path == "/_test/no-faults":
                self._faults.clear()
            else:
                return self._requests
        return None


def _cut(body: bytes, connection: socket.socket) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    connection.shutdown(socket.SHUT_RDWR)
    yield body[len(body) // 2 :]


def _error(status: str, start_response: Any) -> list[bytes]:
    code = _CODES[status]
    number = "400" if status == "expired" else status
    start_response(f"{number} fault", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()]


def _add_user(key: str, secret: str, actions: list[str]) -> None:
    from moto.iam import iam_backends

    iam = iam_backends[_ACCOUNT]["aws"]
    iam.create_user(region_name="us-east-1", user_name=key)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    iam.put_user_policy(
        key, "tests", json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    made = iam.create_access_key(key)
    made.access_key_id, made.secret_access_key = key, secret


def _let_unsigned_requests_through() -> None:
    """Leave them to `_App`: moto checks a signature in all requests or in none."""
    from moto.core.authorization import ActionAuthenticatorMixin as Mixin

    checked = Mixin._authenticate_and_authorize_action

    def check(self: Any, *args: Any, **kwargs: Any) -> None:
        if "Authorization" in self.headers:
            checked(self, *args, **kwargs)

    Mixin._authenticate_and_authorize_action = check  # type: ignore[method-assign,unused-ignore]


def main() -> None:
    """Serve until standard input ends."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):  # type: ignore[misc,unused-ignore]
        def log(self, *args: object, **kwargs: object) -> None:
            pass

    _add_user(KEY, SECRET, ["s3:*"])
    _add_user(READER_KEY, READER_SECRET, ["s3:GetObject", "s3:HeadObject", "s3:ListBucket"])
    _let_unsigned_requests_through()
    for bucket in (BUCKET, OPEN_BUCKET):
        s3_backends[_ACCOUNT]["aws"].create_bucket(bucket, "us-east-1")
    app = _App(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
