"""How figures are taken."""

from typing import Literal

Mode = Literal["inductive", "transductive", "authors"]
"""What batch norm sees in evaluation.

"inductive": each query by itself. "transductive": all of a task together. "authors": the same, of tasks with
one query a class, as the authors of MAML and of what followed it measure.
"""
