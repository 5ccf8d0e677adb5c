"""How figures are taken."""

from typing import Literal

Mode = Literal["inductive", "transductive"]
"""What batch norm sees in evaluation: each query by itself, or all of a task together."""
