"""The YAML configuration as frozen pydantic models, one file a subject. Reads no file."""
