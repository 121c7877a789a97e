"""cv_bridge, where it is installed, for encodings that the package does not decode itself."""

import logging
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

logger = logging.getLogger(__name__)


@cache
def _bridge() -> Any:
    """A CvBridge, or None. One that was built for another NumPy fails in its own ways."""
    try:
        from cv_bridge import CvBridge
    except Exception as error:
        logger.info("cv_bridge cannot be used: %s", error)
        return None
    return CvBridge()


def bridged(message: Any) -> UInt8[ndarray, "h w 3"] | None:
    """RGB by cv_bridge; None where it is not there or does not know the encoding either."""
    bridge = _bridge()
    if bridge is None:
        return None
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:
        logger.info("cv_bridge cannot convert %s: %s", message.encoding, error)
        return None
