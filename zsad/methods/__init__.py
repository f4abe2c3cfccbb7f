"""One detection method a file; the methods do not know each other."""
