"""Learning the start: weights from which a few gradient steps suffice. One paper a file."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
