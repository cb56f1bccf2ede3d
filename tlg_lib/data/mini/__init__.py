"""The mini benchmark: drawn from icon fonts, the same on every machine."""
