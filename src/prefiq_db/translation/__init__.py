"""Error translation: turn a driver's exception into one of our errors, without values."""
