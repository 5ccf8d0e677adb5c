"""What items are, pictures or clips, and how files become items."""
