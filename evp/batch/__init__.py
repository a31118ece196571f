"""Batches, as rules without I/O: when one is full, what became of it, how long to wait."""
