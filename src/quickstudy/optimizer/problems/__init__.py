"""Optimization problems that update rules are learned on, and raced on: one family a file."""
