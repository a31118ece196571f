"""The worker: from the log into the store."""
