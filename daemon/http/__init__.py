"""Health and metrics over HTTP. Reads what the daemon counts; changes nothing."""
