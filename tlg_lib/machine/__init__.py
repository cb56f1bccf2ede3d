"""The machine under it: paths, locks, downloads, archives, devices, weights files. Knows nothing of the method."""
