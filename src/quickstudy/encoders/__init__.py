"""Encoders, modules from items [B, ...] to embeddings [B, D]. Any other `nn.Module` will do."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
