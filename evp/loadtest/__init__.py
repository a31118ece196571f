"""Load, sent when it is due and measured to the store."""
