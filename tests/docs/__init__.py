"""The documentation: its code runs, its tables tell what the code says, its links lead somewhere."""
