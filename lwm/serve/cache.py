"""RF tokens of recent captures, so that one that is asked about again is not encoded again."""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from torch import Tensor


class Encoded(NamedTuple):
    """A capture's RF tokens ``[n, features]`` and its sample rate in Hz, None where nobody knows."""

    rf: Tensor
    sample_rate: float | None


class TokenCache:
    """Least recently used first out; bounded in bytes.

    Args:
        limit: bytes of RF tokens kept; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._kept, self._lock = limit, OrderedDict[str, Encoded](), Lock()
        self.size = 0
        """Bytes kept."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: str) -> Encoded | None:
        """What was kept under a digest of the capture's content."""
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
            return found

    def put(self, digest: str, encoded: Encoded) -> None:
        """Keep a capture's tokens, a copy that holds no larger tensor alive, and let go of the oldest."""
        with self._lock:
            old = self._kept.pop(digest, None)
            self.size -= 0 if old is None else old.rf.nbytes
            self._kept[digest] = encoded._replace(rf=encoded.rf.clone())
            self.size += encoded.rf.nbytes
            while self.size > self._limit:
                self.size -= self._kept.popitem(last=False)[1].rf.nbytes
