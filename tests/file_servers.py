"""Servers of files on loopback that fsspec reaches: FTP by pyftpdlib, SFTP by paramiko."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

import paramiko
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USER: Final = "writer"
PASSWORD: Final = "hidden-password"


class FileServer:
    """A server of a folder.

    Parameters
    ----------
    protocol : str
        As fsspec calls it.
    port : int
        On loopback.
    hang_up : callable
        Ends all connections; new ones are welcome.
    """

    def __init__(self, protocol: str, port: int, hang_up: Callable[[], None]) -> None:
        self.protocol = protocol
        self.port = port
        self.hang_up = hang_up

    def url(self, path: str) -> str:
        """Return the URL of a path of the folder."""
        return f"{self.protocol}://127.0.0.1:{self.port}/{path}"

    def options(self) -> dict[str, Any]:
        """Return what fsspec needs beside the URL."""
        return {"username": USER, "password": PASSWORD}


@contextlib.contextmanager
def ftp_server(root: Path) -> Iterator[FileServer]:
    """Serve a folder over FTP."""
    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(root), perm="elradfmwMT")
    logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)
    connections: weakref.WeakSet[FTPHandler] = weakref.WeakSet()

    class Handler(FTPHandler):  # type: ignore[misc,unused-ignore] # the library is untyped
        auth_failed_timeout = 0

        def on_connect(self) -> None:
            connections.add(self)

    Handler.authorizer = authorizer

    def hang_up() -> None:
        for connection in list(connections):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    server = FTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=lambda: server.serve_forever(timeout=0.05, handle_exit=False),
        name="ftp-server",
        daemon=True,
    )
    thread.start()
    try:
        yield FileServer("ftp", server.address[1], hang_up)
    finally:
        server.ioloop.call_later(0, server.close_all)
        thread.join(10)


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


def _answer(call: Any) -> Any:
    try:
        return call()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)


class _Files(paramiko.SFTPServerInterface):
    root = ""

    def _real(self, path: str) -> str:
        return self.root + self.canonicalize(path)

    def list_folder(self, path: str) -> Any:
        def found() -> Any:
            lines = []
            for entry in os.scandir(self._real(path)):
                lines.append(paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name))
            return lines

        return _answer(found)

    def stat(self, path: str) -> Any:
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(os.stat(self._real(path))))

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def opened() -> Any:
            handle = _Handle(flags)
            descriptor = os.open(self._real(path), flags, 0o644)
            mode = "rb" if flags & 3 == os.O_RDONLY else "r+b" if flags & os.O_RDWR else "wb"
            handle.readfile = handle.writefile = os.fdopen(descriptor, mode)  # type: ignore[attr-defined]
            return handle

        return _answer(opened)

    def _done(self, call: Any, *arguments: Any) -> Any:
        def done() -> int:
            call(*arguments)
            return paramiko.SFTP_OK

        return _answer(done)

    def remove(self, path: str) -> Any:
        return self._done(os.remove, self._real(path))

    def rename(self, oldpath: str, newpath: str) -> Any:
        return self._done(os.rename, self._real(oldpath), self._real(newpath))

    posix_rename = rename

    def mkdir(self, path: str, attr: Any) -> Any:
        return self._done(os.mkdir, self._real(path))

    def rmdir(self, path: str) -> Any:
        return self._done(os.rmdir, self._real(path))


@contextlib.contextmanager
def sftp_server(root: Path) -> Iterator[FileServer]:
    """Serve a folder over SFTP."""
    key = paramiko.ECDSAKey.generate()
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    files = type("Files", (_Files,), {"root": str(root)})
    listening = socket.create_server(("127.0.0.1", 0))
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, files)
            transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=_Login())

    def hang_up() -> None:
        for transport in transports:
            transport.close()

    thread = threading.Thread(target=serve, name="sftp-server", daemon=True)
    thread.start()
    try:
        yield FileServer("sftp", listening.getsockname()[1], hang_up)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)
        hang_up()
