"""An Azure Blob Storage server on loopback, for tests: Azurite, by node.

`ICECHUNK_AZURITE` names the folder of ``npm install --prefix FOLDER azurite``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT: Final = "testaccount"
KEY: Final = base64.b64encode(b"the account key of the tests").decode()
OTHER_KEY: Final = base64.b64encode(b"another key of the tests").decode()
CONTAINER: Final = "test-container"
OPEN_CONTAINER: Final = "open-container"


def program() -> list[str]:
    """Return the command that starts Azurite; skip the test where there is none, but not in CI."""
    folder = os.environ.get("ICECHUNK_AZURITE")
    node = shutil.which("node")
    script = Path(folder or "") / "node_modules/azurite/dist/src/blob/main.js"
    if folder and node and script.is_file():
        return [node, str(script)]
    why = (
        "needs node, and ICECHUNK_AZURITE set to the folder of `npm install --prefix FOLDER "
        "azurite`"
    )
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@dataclass(frozen=True)
class Azurite:
    """A running server."""

    url: str
    log: Path
    backend: str = "auto"

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[Azurite]:
        """Start a server process and stop it in the end."""
        command = program()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "debug.log"
            process = subprocess.Popen(
                [
                    *command,
                    *("--blobPort", "0", "--blobHost", "127.0.0.1", "--inMemoryPersistence"),
                    *("--disableTelemetry", "--skipApiVersionCheck", "--disableProductStyleUrl"),
                    "--silent",  # nobody reads what it prints later, and a full pipe would stop it
                    *("--debug", str(log)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
                cwd=folder,
            )
            try:
                assert process.stdout is not None
                printed = ""
                while (found := re.search(r"listens? on (http://[\d.:]+)", printed)) is None:
                    line = process.stdout.readline().decode()
                    assert line, f"Azurite did not start: {printed}"
                    printed += line
                server = cls(f"{found[1]}/{ACCOUNT}", log)
                server._make_container(CONTAINER, public=False)
                server._make_container(OPEN_CONTAINER, public=True)
                yield server
            finally:
                process.kill()  # it would wait for idle connections
                process.wait(20)
                assert process.stdout is not None
                process.stdout.close()

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return arguments for `azure_storage`."""
        return {
            "account": ACCOUNT,
            "container": CONTAINER,
            "access_key": KEY,
            "config": {"azure_storage_endpoint": self.url},
            "backend": self.backend,
        } | changes

    def requests(self, contains: str, wait_for: int = 1) -> list[str]:
        """Return the lines of the log about requests so far, with method, URL and headers."""
        found: list[str] = []
        for _ in range(100):
            lines = self.log.read_text(errors="replace").splitlines()
            found = [s for s in lines if "RequestMethod=" in s and contains in s]
            if len(found) >= wait_for:
                break
            time.sleep(0.02)
        return found

    def _make_container(self, name: str, *, public: bool) -> None:
        date = format_datetime(datetime.now(UTC), usegmt=True)
        access = "x-ms-blob-public-access:blob\n" if public else ""
        signed = (
            f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{access}x-ms-date:{date}\nx-ms-version:2023-11-03\n"
            f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        )
        request = urllib.request.Request(
            f"{self.url}/{name}?restype=container",
            method="PUT",
            data=b"",
            headers={
                "x-ms-date": date,
                "x-ms-version": "2023-11-03",
                "Authorization": f"SharedKey {ACCOUNT}:{_sign(signed)}",
                "Content-Type": "",
                **({"x-ms-blob-public-access": "blob"} if public else {}),
            },
        )
        with urllib.request.urlopen(request):
            pass

    def sas(self, *, permissions: str = "racwdl", valid_seconds: float = 3600) -> str:
        """Return a shared access signature for the account's blobs."""
        end = datetime.now(UTC) + timedelta(seconds=valid_seconds)
        expiry = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        version = "2020-02-10"
        signed = f"{ACCOUNT}\n{permissions}\nb\nsco\n\n{expiry}\n\nhttps,http\n{version}\n"
        return urllib.parse.urlencode(
            {
                "sv": version,
                "ss": "b",
                "srt": "sco",
                "sp": permissions,
                "se": expiry,
                "spr": "https,http",
                "sig": _sign(signed),
            }
        )


def _sign(text: str) -> str:
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
