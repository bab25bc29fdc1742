"""``python -m localgrad``."""

import sys

from localgrad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
