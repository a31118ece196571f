"""A live sample of what the log accepts: read by no group, filtered, and bounded in rate."""
