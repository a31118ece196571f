"""Engines and processes that evp starts itself."""
