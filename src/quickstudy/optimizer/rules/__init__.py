"""Learned update rules: one paper or family a file."""
