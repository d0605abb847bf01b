"""The Merkle tree hash of RFC 6962 (section 2.1), built leaf by leaf: one root vouches for every leaf and their order.

A leaf is hashed with 0x00 before it and an inner node with 0x01, so that no node can pass for a leaf. Holds one
hash for each set bit of the number of leaves. Pure.
"""

from __future__ import annotations

import hashlib


class Tree:
    """Grows by one leaf at a time; its root may be asked for at any size."""

    def __init__(self) -> None:
        self.size = 0
        self._whole: list[bytes] = []
        """Roots of the complete subtrees, the largest first."""

    def add(self, leaf: bytes) -> None:
        node = hashlib.sha256(b"\x00" + leaf).digest()
        size = self.size
        while size & 1:
            node = hashlib.sha256(b"\x01" + self._whole.pop() + node).digest()
            size >>= 1
        self._whole.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Of all leaves so far; sha256 of nothing where there are none."""
        if not self._whole:
            return hashlib.sha256().digest()
        node = self._whole[-1]
        for left in reversed(self._whole[:-1]):
            node = hashlib.sha256(b"\x01" + left + node).digest()
        return node
