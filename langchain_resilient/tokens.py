"""Count tokens roughly, without a tokenizer and without a network."""

from __future__ import annotations

import re
import zlib

# BPE vocabularies hold most English words up to six or seven letters whole, and split the rest.
_PIECE = re.compile(r" ?[^\W\d_]{1,7}| ?\d{1,3}|[^\w\s]{1,2}|_|\s+")


def pseudo_token_ids(text: str) -> list[int]:
    """Cut a text where a tokenizer might; each piece's checksum is its id.

    Args:
        text: Any text.

    Returns:
        As many numbers as there are pieces; about right for English prose and code.
    """
    return [zlib.crc32(piece.encode()) for piece in _PIECE.findall(text)]
