"""The exception of checks of types."""


class WrongTypeError(TypeError):
    """Something of a type that isn't taken, said on purpose and in a line; other TypeErrors are faults."""
