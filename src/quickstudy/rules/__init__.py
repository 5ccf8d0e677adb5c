"""Update rules: one paper or family a file."""
