"""A web server on this machine that behaves as well or as badly as a test wants."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """Files by name, and how they are sent.

    Attributes:
        files: name -> content.
        etag: version of all files.
        ranges: whether the rest of a file can be asked for.
        cuts: after how many bytes each of the next answers breaks off; ``None`` for one that does not.
        statuses: what the next requests are answered instead of a file.
        headers: sent with every answer, instead of the usual ones.
        pause: s, before each block of 4096 bytes.
        asked: name and Range header of each request.
        sent: bytes of content in each answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"first"'
    ranges: bool = True
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    address: str = ""


class Quiet(ThreadingHTTPServer):
    """Clients that leave are no news."""

    def handle_error(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None, **how: Any) -> Iterator[FileServer]:
    """A server until the block ends; ``tls`` makes it one of https."""
    server = FileServer(**how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                _answer(server, self)

        def log_message(self, *arguments: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.address = f"{'http' if tls is None else 'https'}://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def _answer(server: FileServer, request: BaseHTTPRequestHandler) -> None:
    name, wanted = request.path.lstrip("/"), request.headers.get("Range")
    server.asked.append((name, wanted))
    status = server.statuses.pop(0) if server.statuses else 200
    content, headers = server.files.get(name, b""), {"ETag": server.etag, "Accept-Ranges": "bytes"}
    if status == 200 and name not in server.files:
        status = 404
    if status != 200:
        content = b"no"
    elif wanted and server.ranges and request.headers.get("If-Range", server.etag) == server.etag:
        start = int(re.findall(r"\d+", wanted)[0])
        status = 206 if start < len(content) else 416
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
    request.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(content)), **server.headers}.items():
        request.send_header(key, value)
    request.end_headers()
    cut = server.cuts.pop(0) if server.cuts else None
    place = len(server.sent)
    server.sent.append(0)
    for start in range(0, len(content) if cut is None else cut, 4096):
        time.sleep(server.pause)
        block = content[start : min(start + 4096, len(content) if cut is None else cut)]
        request.wfile.write(block)
        server.sent[place] += len(block)
    if cut is not None:
        request.close_connection = True
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)
