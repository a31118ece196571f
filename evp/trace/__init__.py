"""The story of one event, as log and store tell it."""
