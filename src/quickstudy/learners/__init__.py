"""Learners, one paper family a file."""
