"""Faults on purpose, on a running `evp up` under load, and the proof that nothing was lost."""
