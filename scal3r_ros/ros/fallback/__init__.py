"""Stand-ins for ROS packages that have no wheel; used only where the real one does not import."""
