"""The line: transport, disk and time around the `zsad` detector library."""
