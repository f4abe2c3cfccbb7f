"""The `zsad` command: one file a group of subcommands."""
