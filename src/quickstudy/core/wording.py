"""How numbers are put into words."""


def plural(n: int, noun: str) -> str:
    """A number and what there are so many of.

    Args:
        n: How many.
        noun: What, in the singular; its plural must end in s.

    Example:
        >>> plural(1, "sample"), plural(0, "sample"), plural(3, "sample")
        ('1 sample', '0 samples', '3 samples')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"
