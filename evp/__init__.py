"""evp: events accepted durably, stored once, and proved to be there."""

__version__ = "0.1.0"
