"""Zero-shot anomaly detection: tensors and images in, scores and maps out.

Knows nothing of sockets, databases, schedules or YAML; `daemon` does that.
"""
