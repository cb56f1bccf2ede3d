"""Make pseudo masks of a dataset folder: the same as `tlg masks make`, for those who prefer scripts.

python data_scripts/make_masks.py --data FOLDER [--clip ViT-B-16-quickgelu/openai] [--set refine=grabcut]
"""

import sys

from tlg_lib.cli import main

if __name__ == "__main__":
    main(["masks", "make", *sys.argv[1:]])
