"""Kernels: layers that make inner loops fast. They change no result, so readers may skip them."""
