"""A Google Cloud Storage server on loopback, for tests: `gcp-storage-emulator`, wrapped.

The emulator keeps the objects, and answers deletions and resumable uploads. What it lacks is done
here around it: generation conditions (it answers 200 to a stale one), writes one at a time, the
headers of the XML interface (generation, entity tag, time, user metadata), ranges beyond the end,
listings in pages, tokens, and service accounts. Run as a program it prints its URL and serves until
its standard input ends; tests use `GcsServer`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.web_control import Controlled, ControlledHandler, serve_until_told, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET: Final = "test-bucket"
OPEN_BUCKET: Final = "open-bucket"
GOOD = "good-token"
READER = "reader-token"


@dataclass(frozen=True)
class GcsServer(Controlled):
    """A running server, and the library to reach it with."""

    backend: str = "auto"

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[GcsServer]:
        """Start a server process and stop it in the end."""
        with serving(str(Path(__file__).resolve())) as url:
            yield cls(url)

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return arguments for `gcs_storage`."""
        config = {"google_base_url": self.url}
        return {
            "bucket": BUCKET,
            "bearer_token": GOOD,
            "config": config,
            "backend": self.backend,
        } | changes

    def expire(self, token: str) -> None:
        """Refuse a token from now on."""
        self.ask("expire", token)


class _Handler(ControlledHandler):
    storage: Any
    writes = threading.Lock()
    expired: set[str] = set()
    issued: list[int] = []

    def control(self, name: str, content: Any) -> Any:
        if name == "expire":
            self.expired.add(content)
        return super().control(name, content)

    def serve(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if path == "/token":  # a service account's
            self.issued.append(len(body))
            token = {"access_token": "good-issued", "expires_in": 3600, "token_type": "Bearer"}
            self.reply(200, json.dumps(token).encode(), Content_Type="application/json")
        elif not self._may():
            return
        elif path.startswith(("/storage/v1/", "/upload/")):
            self._json(body)
        else:
            bucket, _, name = path[1:].partition("/")
            with self.writes:
                self._object(unquote(bucket), unquote(name), body)

    def _may(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        reads = self.command in {"GET", "HEAD"}
        if not token and reads and unquote(self.path).startswith(f"/{OPEN_BUCKET}/"):
            return True
        if not token.startswith(("good-", "reader-")) or token in self.expired:
            self.reply(401, b"no such token")
        elif token == READER and not reads:
            self.reply(403, b"reader")
        else:
            return True
        return False

    # ------------------------------------------------------------ the XML interface

    def _object(self, bucket: str, name: str, body: bytes) -> None:
        from gcp_storage_emulator.exceptions import NotFound

        try:
            about = self.storage.get_file_obj(bucket, name)
        except NotFound:
            about = None
        if self.command == "PUT":
            self._put(bucket, name, about, body)
        elif about is None:
            self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.command == "DELETE":
            self.storage.delete_file(bucket, name)
            self.reply(204)
        elif self.command == "HEAD":
            self.reply(200, **_headers(about), Content_Length=str(about["size"]))
        else:
            self._get(self.storage.get_file(bucket, name), about)

    def _put(self, bucket: str, name: str, about: Any, body: bytes) -> None:
        from gcp_storage_emulator.handlers import objects

        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and wanted != ("0" if about is None else about["generation"]):
            self.reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        kept = {
            key[12:].lower(): value
            for key, value in self.headers.items()
            if key.lower().startswith("x-goog-meta-")
        }
        content_type = self.headers.get("Content-Type")
        storage_class = self.headers.get("x-goog-storage-class", "STANDARD")
        more = {"metadata": kept, "storageClass": storage_class}
        base = f"http://{self.headers['Host']}"
        made = objects._make_object_resource(base, bucket, name, content_type, str(len(body)), more)
        made = objects._checksums(body, made)
        self.storage.create_file(bucket, name, body, made)
        self.reply(200, **_headers(made))

    def _get(self, data: bytes, about: Any) -> None:
        total, status, more = len(data), 200, {}
        span = self.headers.get("Range")
        if span is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            if int(first) >= total:
                self.reply(416, b"", Content_Range=f"bytes */{total}")
                return
            data = data[int(first) : int(last) + 1]
            more = {"Content_Range": f"bytes {first}-{int(first) + len(data) - 1}/{total}"}
            status = 206
        self.reply(status, data, **_headers(about), **more)

    # ------------------------------------------------------------ the JSON interface

    def _json(self, body: bytes) -> None:
        url = urlsplit(self.path)
        parts = url.path.split("/")
        if self.command == "GET" and parts[-1] == "o" and parts[4] in {BUCKET, OPEN_BUCKET}:
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            found, _ = self.storage.get_file_list(parts[4], query.get("prefix"), None, None)
            found = sorted(found, key=lambda about: about["name"])
            start, most = int(query.get("pageToken", 0)), int(query.get("maxResults", 1000))
            page: dict[str, Any] = {"items": found[start : start + most]}
            if start + most < len(found):
                page["nextPageToken"] = str(start + most)
            self.reply(200, json.dumps(page).encode())
            return
        # To the emulator, whose reply goes through this one's.
        from gcp_storage_emulator import server

        self.rfile, rest = io.BytesIO(body), self.rfile
        try:
            with self.writes:
                request = server.Router(self)
                request.handle(self.command)
        finally:
            self.rfile = rest


def _headers(about: Any) -> dict[str, str]:
    when = datetime.fromisoformat(about["updated"])
    kept = {f"x-goog-meta-{key}": value for key, value in (about.get("metadata") or {}).items()}
    return kept | {
        "x-goog-generation": about["generation"],
        "x-goog-stored-content-length": str(about["size"]),
        "ETag": f'"{about["etag"]}{about["generation"]}"',
        "Last-Modified": format_datetime(when, usegmt=True),
        "Content-Type": about["contentType"] or "application/octet-stream",
    }


def main() -> None:
    """Serve until standard input ends."""
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    _Handler.storage = Storage(use_memory_fs=True)
    for bucket in (BUCKET, OPEN_BUCKET):
        buckets.create_bucket(bucket, _Handler.storage)
    serve_until_told(_Handler)


if __name__ == "__main__":
    main()
