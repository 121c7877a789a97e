"""Sim(3), cameras and alignment (numpy)."""
