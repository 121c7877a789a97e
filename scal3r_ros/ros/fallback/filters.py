"""message_filters where it is installed, else an approximate synchroniser with the same names."""

import logging
from collections.abc import Callable
from typing import Any

from scal3r_ros.ros.conversions import stamp_to_ns

logger = logging.getLogger(__name__)


class FallbackFilter:
    """As message_filters.SimpleFilter: what is signalled goes to the callbacks."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def registerCallback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def signalMessage(self, message: Any) -> None:
        for callback in self.callbacks:
            callback(message)


class FallbackSynchronizer:
    """As message_filters.ApproximateTimeSynchronizer for two topics: the nearest stamps meet, once
    each; what is older than a match, or too much, is dropped."""

    def __init__(self, filters: list[FallbackFilter], queue_size: int, slop: float) -> None:
        self.queue_size, self.slop_ns = queue_size, int(slop * 1e9)
        self._waiting: list[dict[int, Any]] = [{} for _ in filters]
        self._callbacks: list[Callable[..., None]] = []
        for side, one in enumerate(filters):
            one.registerCallback(lambda message, side=side: self._take(side, message))

    def registerCallback(self, callback: Callable[..., None]) -> None:
        self._callbacks.append(callback)

    def _take(self, side: int, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        own, other = self._waiting[side], self._waiting[1 - side]
        if own and stamp_ns < max(own) - 10 * max(self.slop_ns, 1):
            own.clear()  # time went back
            other.clear()
        own[stamp_ns] = message
        while len(own) > self.queue_size:
            del own[min(own)]
        nearest = min(other, key=lambda s: abs(s - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > self.slop_ns:
            return
        pair = (message, other[nearest]) if side == 0 else (other[nearest], message)
        for waiting, matched in ((own, stamp_ns), (other, nearest)):
            for stamp in [s for s in waiting if s <= matched]:
                del waiting[stamp]
        for callback in self._callbacks:
            callback(*pair)


def simple_filter() -> Any:
    """message_filters.SimpleFilter or the stand-in."""
    try:
        import message_filters
    except ImportError:
        logger.info("message_filters is not installed: using the built-in synchroniser")
        return FallbackFilter()
    return message_filters.SimpleFilter()


def approximate_synchronizer(filters: list[Any], queue_size: int, slop_s: float) -> Any:
    """message_filters.ApproximateTimeSynchronizer or the stand-in."""
    if isinstance(filters[0], FallbackFilter):
        return FallbackSynchronizer(filters, queue_size, slop_s)
    import message_filters

    return message_filters.ApproximateTimeSynchronizer(filters, queue_size, slop_s)
