"""`elevation`: the map as a height field, for those who have grid_map_msgs installed."""

import logging
from typing import Any

import numpy as np
from std_msgs.msg import Float32MultiArray, Header, MultiArrayDimension

from scal3r_ros.mapping.occupancy import HeightField

logger = logging.getLogger(__name__)
LAYER = "elevation"


def grid_map_type() -> Any:
    """grid_map_msgs/GridMap, or None where the package is not installed."""
    try:
        from grid_map_msgs.msg import GridMap
    except ImportError:
        logger.info("grid_map_msgs is not installed: no elevation is published")
        return None
    return GridMap


def elevation_message(field: HeightField, head: Header) -> Any:
    """As grid_map stores it: cell (0, 0) at the largest x and y, rows along x, a column after the
    other, NaN where nothing was seen."""
    rows_by_columns = field.heights.T[::-1, ::-1]  # x falls with the row, y with the column
    rows, columns = rows_by_columns.shape
    data = Float32MultiArray(data=rows_by_columns.flatten(order="F").astype(np.float32).tolist())
    data.layout.dim = [
        MultiArrayDimension(label="column_index", size=columns, stride=rows * columns),
        MultiArrayDimension(label="row_index", size=rows, stride=rows),
    ]
    message = grid_map_type()(header=head, layers=[LAYER], basic_layers=[LAYER], data=[data])
    info, size = message.info, field.resolution
    info.resolution, info.length_x, info.length_y = size, rows * size, columns * size
    info.pose.position.x = field.origin[0] + rows * size / 2
    info.pose.position.y = field.origin[1] + columns * size / 2
    info.pose.orientation.w = 1.0
    return message
