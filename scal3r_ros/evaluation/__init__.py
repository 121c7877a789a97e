"""Maps, trajectories and depth against the truth."""
