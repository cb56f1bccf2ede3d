"""TLG: weakly-supervised few-shot segmentation from image-level labels (arXiv 2508.16159)."""

__version__ = "0.1.0"
