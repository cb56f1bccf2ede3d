"""``python -m tlg_lib.parity FILE.npz``: the name under which released/parity.py is documented."""

from .released.parity import main

if __name__ == "__main__":
    raise SystemExit(main())
