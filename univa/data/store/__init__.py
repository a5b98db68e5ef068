"""The store format: reading, writing and checking."""
