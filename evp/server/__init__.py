"""The ingest server: from HTTP into the log."""
