"""Encoders, modules from items [B, ...] to embeddings [B, D]. Any other `nn.Module` will do."""
