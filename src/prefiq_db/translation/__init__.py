"""Error translation: a driver's exception goes in, one of our errors comes out, without a value in it."""
