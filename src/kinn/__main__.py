"""`python -m kinn` is `kinn`."""

import sys

from kinn.cli import main

if __name__ == "__main__":
    sys.exit(main())
