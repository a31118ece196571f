"""The store: everything evp asks of MongoDB."""
