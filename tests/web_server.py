"""A web server on loopback, for tests: files of a folder, with ranges, and redirects.

Run as a program with a folder it prints its URL and serves until its standard input ends; tests use
`WebServer`. Paths below ``/token/`` need a bearer token; below ``/whole/`` ranges are ignored;
below ``/echo/`` every request is answered with status 404 (to be looked up in the log).
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.web_control import Controlled, ControlledHandler, serve_until_told, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "the-token-of-the-web"


@dataclass(frozen=True)
class WebServer(Controlled):
    """A running server, and the library to reach it with."""

    backend: str = "auto"

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[WebServer]:
        """Start a server process and stop it in the end."""
        with serving(str(Path(__file__).resolve()), str(folder)) as url:
            yield cls(url)

    def redirect(self, path: str, location: str) -> None:
        """Answer a path with a redirect from now on."""
        self.ask("redirect", [path, location])


class _Handler(ControlledHandler):
    folder: Path
    redirects: dict[str, str] = {}

    def control(self, name: str, content: Any) -> Any:
        if name == "redirect":
            self.redirects[content[0]] = content[1]
        return super().control(name, content)

    def serve(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in self.redirects:
            self.reply(302, Location=self.redirects[path])
            return
        start, _, rest = path[1:].partition("/")
        if start == "token" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401)
            return
        file = self.folder / (rest if start in {"token", "whole"} else path[1:])
        if start == "echo" or not file.is_file():
            self.reply(404)
            return
        data, status = file.read_bytes(), file.stat()
        about = {
            "Last_Modified": formatdate(status.st_mtime, usegmt=True),
            "ETag": f'"{status.st_mtime_ns:x}-{len(data):x}"',
        }
        span = None if start == "whole" else self.headers.get("Range")
        if self.command == "HEAD":
            self.reply(200, **about, Content_Length=str(len(data)))
        elif span is None:
            self.reply(200, data, **about)
        else:
            first, _, last = span.removeprefix("bytes=").partition("-")
            if int(first) >= len(data):
                self.reply(416, Content_Range=f"bytes */{len(data)}")
                return
            part = data[int(first) : int(last) + 1]
            spread = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self.reply(206, part, **about, Content_Range=spread)


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[1])
    serve_until_told(_Handler)
