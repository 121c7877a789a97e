"""Sequences on disk."""
