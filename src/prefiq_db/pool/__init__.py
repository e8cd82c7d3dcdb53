"""The connection pool: who waits, who has a connection, and which connections are fit to be handed out."""
