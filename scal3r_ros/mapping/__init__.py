"""Frames become keyframes, chunks, submaps, a graph and a map."""
