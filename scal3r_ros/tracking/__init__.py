"""Camera-rate pose of every image against the newest keyframe."""
