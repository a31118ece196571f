"""Sending events from Python; `from evp import AsyncClient, Client`."""
