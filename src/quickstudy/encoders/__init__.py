"""Encoders: modules from items [B, ...] to embeddings [B, D]. Any other such `nn.Module` works, too."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
