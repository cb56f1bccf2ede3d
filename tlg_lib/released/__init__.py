"""The published network: plain in one file, parity with it, its checkpoints, what of it learns."""
