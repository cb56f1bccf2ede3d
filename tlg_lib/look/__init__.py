"""Drawing and touching: figures, widgets and what they read from a network's inside."""
