"""Events: the listeners, and reporting calls to them."""
