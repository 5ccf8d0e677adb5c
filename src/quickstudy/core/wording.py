"""Numbers in words."""


def plural(n: int, noun: str) -> str:
    """A number followed by its noun, in the singular or the plural.

    Args:
        n: Number of things.
        noun: Noun in the singular; its plural must end in s.

    Example:
        >>> plural(1, "sample"), plural(0, "sample"), plural(3, "sample")
        ('1 sample', '0 samples', '3 samples')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def of_ten(share: float) -> str:
    """A share in words, such as `nine of ten`.

    Args:
        share: Share in [0, 1].
    """
    names = (
        "hardly any",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "nearly all",
    )
    tenth = round(10 * share)
    return names[tenth] if tenth in (0, 10) else f"{names[tenth]} of ten"
