"""Verdicts to rows and pictures. Knows nothing of sockets or detectors."""
