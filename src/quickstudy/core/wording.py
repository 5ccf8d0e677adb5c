"""Numbers in words."""


def plural(n: int, noun: str) -> str:
    """A number followed by its noun, in the singular or the plural.

    Args:
        n: Number of things.
        noun: Noun in the singular, whose plural has an s or, after an s, es.

    Example:
        >>> plural(1, "sample"), plural(0, "sample"), plural(3, "sample")
        ('1 sample', '0 samples', '3 samples')
        >>> plural(1, "class"), plural(2, "class")
        ('1 class', '2 classes')
    """
    ending = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n} {noun}{ending}"
