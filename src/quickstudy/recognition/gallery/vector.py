"""Column type of embeddings in PostgreSQL; a file of its own because it needs pgvector."""

from typing import Any

import numpy as np
import pgvector
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import Dialect, func
from sqlalchemy.sql import ColumnElement

from quickstudy.recognition.gallery.database import WIRE


class Vector(VECTOR):
    """pgvector's type, with values as bytes of data type `WIRE`, as in SQLite, and read in binary form.

    In text form, which pgvector's own type reads, a million embeddings would take minutes.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        """Function from bytes to text, with enough digits to restore the same numbers."""
        as_text = super().bind_processor(dialect)

        def bind(value: bytes) -> str:
            return as_text(np.frombuffer(value, WIRE))

        return bind

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Expression to select: the binary form of the column."""
        return func.vector_send(colexpr, type_=self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Function from pgvector's binary form to bytes."""
        return _as_bytes


def _as_bytes(value: bytes) -> bytes:
    return pgvector.Vector.from_binary(value).to_numpy().astype(WIRE, copy=False).tobytes()
