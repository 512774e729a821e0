"""A method that lives outside, for tests: it knows Python's standard library and the exchange folder, and no Concord.

As a script: `python outside.py requests.jsonl OUTPUT [what to do wrong]`. Each image is one colour, by the request's
seed and caption, with the mask's histogram nowhere in it: what is tested is the way there and back.
"""

import json
import os
import struct
import sys
import time
import zlib
from pathlib import Path


def png(rows: list[bytes], width: int, depth: int = 8, colour: int = 2) -> bytes:
    """The bytes of a PNG file. colour: 0 grey, 2 RGB, 6 RGB with alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def colour_of(seed: int, caption: str) -> bytes:
    """Three levels that follow from the request."""
    return struct.pack(">I", zlib.crc32(f"{seed} {caption}".encode()))[:3]


def paint(colour: bytes, size: int = 64) -> bytes:
    """An image of one colour with a black left half."""
    row = bytes(3) * (size // 2) + colour * (size - size // 2)
    return png([row] * size, size)


def requests_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answer(requests: Path, output: Path, size: int = 64) -> None:
    """Write every image that is asked for."""
    for request in requests_in(requests):
        caption = request["conditions"].get("text", {}).get("value", "")
        (output / request["image"]).write_bytes(paint(colour_of(request["seed"], caption), size))


def main() -> None:
    requests, output, *fault = sys.argv[1:]
    with open("calls.txt", "a") as calls:  # in the YAML's folder
        print(requests_in(Path(requests))[0]["id"], os.getpid(), file=calls)
    fault_name, _, at = fault[0].partition("@") if fault else ("", "", "")
    if at and requests_in(Path(requests))[0]["id"] != at:  # only in the shard that begins with this request
        fault_name = ""
    answer(Path(requests), Path(output), 32 if fault_name == "small" else 64)
    if fault_name == "fail":
        print("some progress\n\x1b[31mCUDA out of memory, as they say\x1b[0m", file=sys.stderr)
        sys.exit(3)
    if fault_name == "silent":
        os.abort()
    if fault_name == "lacking":
        next(Path(output).glob("*.png")).unlink()
    if fault_name == "sleep":
        time.sleep(60)
    if fault_name == "declare":
        (Path(output) / "result.json").write_text('{"seconds_per_image": 1.5, "peak_memory_bytes": 1048576}')


if __name__ == "__main__":
    main()
