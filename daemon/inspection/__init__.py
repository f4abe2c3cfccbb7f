"""Frames to verdicts. Knows nothing of sockets or databases."""
