"""insightface's ``.bin`` packs of verification pairs, read without unpickling.

A pack is a pickled ``(list of encoded faces, list of flags)``. A pickle can run any code when it is
loaded, so this reader walks its instructions with the standard library's disassembler, which runs
none, understands those that hold bytes, booleans, lists and tuples, and refuses all others.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from facepurify.errors import DataError

__all__ = ["read_pack"]

MAX_BYTES = 2 << 30
# Python 2 wrote bytes as BINSTRING, which the disassembler gives as text, one letter a byte.
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"}
_FLAGS = {"NEWTRUE": True, "NEWFALSE": False}
_REMEMBER = {"MEMOIZE", "BINPUT", "LONG_BINPUT"}
_RECALL = {"BINGET", "LONG_BINGET"}
_STRUCTURE = {
    *("PROTO", "FRAME", "MARK", "STOP", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("TUPLE", "TUPLE2"),
}


def read_pack(path: Path) -> tuple[list[bytes], list[bool]]:
    """Read a pack.

    Returns:
        The encoded faces, two for each pair in turn, and for each pair whether it is genuine.

    Raises:
        DataError: If the file cannot be read, is larger than 2 GiB, or is no such pack.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"expected a readable .bin pack, got {path}: {error}") from error
    if size > MAX_BYTES:
        raise DataError(f"expected a pack of at most {MAX_BYTES} bytes, {path} has {size}")
    try:
        faces, genuine = _walk(content)
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"expected insightface's .bin pack, got {path}: {error}") from error
    if not genuine or len(faces) != 2 * len(genuine):
        raise DataError(
            f"expected two faces for each pair in {path}, "
            f"got {len(faces)} faces and {len(genuine)} pairs"
        )
    return faces, genuine


def _walk(content: bytes) -> tuple[list[bytes], list[bool]]:
    faces: list[bytes] = []
    genuine: list[bool] = []
    memo: dict[int, bytes] = {}
    latest = b""
    instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]
    instructions = pickletools.genops(BytesIO(content))
    for opcode, argument, _ in instructions:
        if opcode.name in _REMEMBER:
            # A byte string that occurs twice is written once and recalled from the memo after.
            memo[len(memo) if argument is None else argument] = latest
        elif opcode.name in _BYTES:
            latest = argument.encode("latin-1") if isinstance(argument, str) else argument
            faces.append(latest)
            continue
        elif opcode.name in _RECALL:
            if not memo.get(argument):
                raise ValueError(f"it recalls entry {argument}, which is no encoded face")
            faces.append(memo[argument])
        elif opcode.name in _FLAGS:
            genuine.append(_FLAGS[opcode.name])
        elif opcode.name not in _STRUCTURE:
            raise ValueError(f"it holds the instruction {opcode.name}, not just faces and flags")
        latest = b""
    return faces, genuine
