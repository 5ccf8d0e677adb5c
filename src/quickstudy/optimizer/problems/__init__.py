"""Optimization problems that update rules are learned on, and raced on: one family a file."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
