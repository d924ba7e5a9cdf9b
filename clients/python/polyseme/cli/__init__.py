"""The terminal's side of the client: commands, tables, files."""
