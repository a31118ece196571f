"""The proof: what was accepted is stored, a duplicate, a dead letter, or still in the log."""
