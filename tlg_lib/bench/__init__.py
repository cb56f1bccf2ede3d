"""Measuring: the library beside a straightforward network on the same inputs and weights (``tlg bench``)."""
