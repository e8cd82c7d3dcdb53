"""What is told while statements run: events to listeners, counters."""
