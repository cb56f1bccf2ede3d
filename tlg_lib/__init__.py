"""TLG: weakly-supervised few-shot segmentation from image-level labels (arXiv 2508.16159)."""

import os

# Large CPU tensors in 2 MB pages: a fresh 100 MB tensor costs half as much to fill (Linux; read by PyTorch at its
# first large allocation, so it is set before torch is imported).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
