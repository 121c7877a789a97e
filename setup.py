"""pip install . for the Python half; colcon builds nodes and messages from CMakeLists.txt."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["scal3r_ros", "scal3r_ros.*"]),
    package_data={"scal3r_ros": ["weights/*"]},
    data_files=[("share/scal3r_ros", ["package.xml"])],
)
