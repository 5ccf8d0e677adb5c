"""What brings data that are in memory, or in another library's hands, into a `ClassPool`."""
