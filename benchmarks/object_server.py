"""Files of a folder as objects, read-only, each answer some milliseconds late.

    python -m benchmarks.object_server FOLDER --port 9000 --latency 30

FOLDER/bucket/key is http://127.0.0.1:9000/bucket/key, and s3://bucket/key where AWS_ENDPOINT_URL is
http://127.0.0.1:9000 (credentials are not looked at; nothing can be listed). Its first line names
that URL. For figures of speed: an answer costs next to no processor time.
"""

import argparse
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import partial
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def answer(
    folder: Path, late: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve a connection until the client closes it."""
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            if late:
                await asyncio.sleep(late)
            await _object(folder, head, writer)
    writer.close()


async def _object(folder: Path, head: list[str], writer: asyncio.StreamWriter) -> None:
    method, target, _ = head[0].split(" ", 2)
    path = (folder / unquote(target.partition("?")[0]).lstrip("/")).resolve()
    asked = next((line[6:].strip() for line in head if line[:6].lower() == "range:"), "")
    if method not in ("GET", "HEAD"):
        _status(writer, method, "405 Method Not Allowed", "MethodNotAllowed")
        return
    if not path.is_relative_to(folder) or not path.is_file():
        _status(writer, method, "404 Not Found", "NoSuchKey")
        return
    with open(path, "rb") as file:
        status = path.stat()
        size = status.st_size
        begin, end = part(asked, size)
        if asked and begin >= end:
            _status(writer, method, "416 Range Not Satisfiable", "InvalidRange")
            return
        lines = [
            "HTTP/1.1 206 Partial Content" if asked else "HTTP/1.1 200 OK",
            f"Content-Length: {end - begin}",
            f'ETag: "{size:x}-{status.st_mtime_ns:x}"',
            f"Last-Modified: {formatdate(status.st_mtime, usegmt=True)}",
            "Content-Type: application/octet-stream",
            "Accept-Ranges: bytes",
        ]
        if asked:
            lines.append(f"Content-Range: bytes {begin}-{end - 1}/{size}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if method == "GET" and end > begin:
            loop = asyncio.get_running_loop()
            await loop.sendfile(writer.transport, file, begin, end - begin)


def part(asked: str, size: int) -> tuple[int, int]:
    """The bytes that a Range header means, of so many: begin, end. All, if it is none."""
    found = _RANGE.fullmatch(asked)
    if found is None or found.groups() == ("", ""):
        return 0, size
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _status(writer: asyncio.StreamWriter, method: str, status: str, code: str) -> None:
    body = f"<Error><Code>{code}</Code></Error>"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head + ("" if method == "HEAD" else body)).encode())


async def serve(folder: Path, port: int, latency_ms: float) -> None:
    """Until the process is ended."""
    work = partial(answer, folder.resolve(), latency_ms / 1000)
    server = await asyncio.start_server(work, "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextmanager
def serving(folder: Path, latency_ms: float = 0.0) -> Iterator[str]:
    """A server in a process of its own, at a free port: its URL."""
    command = [sys.executable, "-m", "benchmarks.object_server", str(folder)]
    command += ["--latency", str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="milliseconds before each answer"
    )
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(args.folder, args.port, args.latency))
