"""The differences between databases, as data and small functions."""
