"""Events for listeners: who listens, and who is told of a call."""
