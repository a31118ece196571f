"""The log: everything evp asks of Redis or Valkey."""
