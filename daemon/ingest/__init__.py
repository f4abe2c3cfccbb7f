"""Frames in: sockets, wire formats, decoding. Knows nothing of detectors or databases."""
