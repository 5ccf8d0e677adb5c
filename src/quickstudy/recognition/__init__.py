"""Recognition: enroll faces, voices, words or sounds from a handful of samples, then verify and identify."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
