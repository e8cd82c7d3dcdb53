"""What differs per database, as data and small functions."""
