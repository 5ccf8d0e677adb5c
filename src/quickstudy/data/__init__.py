"""Data sets as class pools, and episodes drawn from them."""
