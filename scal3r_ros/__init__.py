"""scal3r_ros: online mapping from one moving camera, for ROS 2."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # generated messages are found beside the sources
