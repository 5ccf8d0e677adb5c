"""The type of embeddings in PostgreSQL; apart, for pgvector is installed only where PostgreSQL is used."""

from typing import Any

import numpy as np
import pgvector
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import Dialect, func
from sqlalchemy.sql import ColumnElement

from quickstudy.recognition.gallery.database import WIRE


class Vector(VECTOR):
    """pgvector's own type, but of the bytes of `WIRE`, as in SQLite, and read in its binary form.

    As text, which pgvector's type reads, a million embeddings would take minutes.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        """From bytes to text, with as many digits as it takes to get the same number back."""
        as_text = super().bind_processor(dialect)

        def bind(value: bytes) -> str:
            return as_text(np.frombuffer(value, WIRE))

        return bind

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """What to select."""
        return func.vector_send(colexpr, type_=self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """From pgvector's binary form to bytes."""
        return _as_bytes


def _as_bytes(value: bytes) -> bytes:
    return pgvector.Vector.from_binary(value).to_numpy().astype(WIRE, copy=False).tobytes()
