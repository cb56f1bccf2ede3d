"""Experiments: notebooks, studies, sweeps, the ladder, and the tables and reports made of their records."""
