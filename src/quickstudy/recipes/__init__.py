"""Recipes: one published experiment each, stated in full, run, and found again."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
