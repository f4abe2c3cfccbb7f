"""Files of annotation tools to labels and back, one format a file. Knows no database."""
