"""The shift report: rows to one frozen value, and that value to terminal, CSV, JSON and HTML."""
