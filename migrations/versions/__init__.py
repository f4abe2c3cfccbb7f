"""One file for each schema revision; a released one is never edited."""
