"""Consumer groups: listed, described, made, set elsewhere, deleted."""
