"""Formats of items, images or clips, and the decoding of files to them."""
