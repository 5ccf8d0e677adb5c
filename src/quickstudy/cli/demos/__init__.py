"""What `quickstudy demo` shows."""
