"""Learning the space: an embedding in which near means the same class. One paper a file."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
