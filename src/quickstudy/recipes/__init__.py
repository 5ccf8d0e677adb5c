"""Recipes: one published experiment each, stated in full, run, and found again."""
