"""The drivers' own connections, each taught that no wait is without an end; imported only where the driver is there."""
