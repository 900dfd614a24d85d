"""The metadata blocks of a FLAC file (RFC 9639, section 8), and the Vorbis comments in one of them (section 8.6).

"fLaC", blocks of (1 bit: the last one, 7 bits: kind, 24 bits: length, content), frames
vendor, number of comments, comments "NAME=text" in UTF-8, each after its length in 32 bits, little-endian
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

STREAMINFO, PADDING, COMMENTS = 0, 1, 4
LARGEST = 2**24 - 1  # bytes of a block
Block = tuple[int, bytes]  # kind, content


@dataclass(frozen=True)
class Info:
    """What the first block tells of the sound."""

    sample_rate: int  # Hz
    channels: int
    samples: int  # a channel; 0: not known

    @property
    def seconds(self) -> float:
        """The sound's length."""
        return self.samples / self.sample_rate


def read_blocks(data: bytes) -> tuple[list[Block], bytes]:
    """A file's metadata blocks, and the frames after them. Raises ValueError where it is no FLAC file, or cut."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:  # a foreign tag before the file: 7 bits of its length in each byte
        at = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    if data[at : at + 4] != b"fLaC":
        raise ValueError("it does not begin as one")
    at, last, blocks = at + 4, False, []
    while not last:
        head = data[at : at + 4]
        length = int.from_bytes(head[1:], "big")
        if len(head) < 4 or at + 4 + length > len(data):
            raise ValueError("it ends within its metadata")
        last = head[0] > 127
        blocks.append((head[0] & 127, data[at + 4 : at + 4 + length]))
        at += 4 + length
    if blocks[0][0] != STREAMINFO or len(blocks[0][1]) != 34:
        raise ValueError("its first block is not STREAMINFO")
    return blocks, data[at:]


def write_blocks(blocks: list[Block], frames: bytes) -> bytes:
    """Inverse of `read_blocks`. Raises ValueError for a block that is too large."""
    parts = [b"fLaC"]
    for i, (kind, content) in enumerate(blocks):
        if len(content) > LARGEST:
            raise ValueError(f"a metadata block of {len(content):,} bytes")
        parts += [bytes([kind | (128 if i == len(blocks) - 1 else 0)]), len(content).to_bytes(3, "big"), content]
    return b"".join([*parts, frames])


def info(blocks: list[Block]) -> Info:
    """STREAMINFO. Raises ValueError for a sample rate of 0."""
    bits = int.from_bytes(blocks[0][1][10:18], "big")  # 20 bits of rate, 3 of channels - 1, 5 of depth - 1, 36 samples
    found = Info(bits >> 44, (bits >> 41 & 7) + 1, bits & (2**36 - 1))
    if not found.sample_rate:
        raise ValueError("its sample rate is 0")
    return found


def read_comments(content: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """The vendor and the comments [(NAME in capitals, text)]; bytes that are no UTF-8 become question marks.

    Raises ValueError where a length points out of the block.
    """
    at = 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        if at > len(content):
            raise ValueError("its comments are damaged")
        return content[at - length : at]

    def number() -> int:
        return struct.unpack("<I", take(4))[0]

    vendor = take(number())
    said = [take(number()).decode("utf-8", "replace").partition("=") for _ in range(number())]
    return vendor, [(name.upper(), text) for name, sign, text in said if sign]


def write_comments(vendor: bytes, comments: list[tuple[str, str]]) -> bytes:
    """Inverse of `read_comments`."""
    said = [vendor, *(f"{name}={text}".encode("utf-8", "replace") for name, text in comments)]
    sized = [struct.pack("<I", len(text)) + text for text in said]
    return b"".join([sized[0], struct.pack("<I", len(comments)), *sized[1:]])
