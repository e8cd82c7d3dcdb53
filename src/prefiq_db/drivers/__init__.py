"""The drivers' connections with a timeout for every wait; each module is imported only if its driver is installed."""
