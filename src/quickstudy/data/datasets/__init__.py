"""Data sets, one source a file."""
