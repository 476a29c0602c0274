"""`python -m workbench` is the command line."""

import sys

from workbench.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
