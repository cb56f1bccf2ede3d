"""Subcommands of `tlg`, one module each; imported at start-up, so heavy imports stay inside functions."""
