"""`python -m store_engine VERB ...` is the command `store-engine VERB ...`."""

import sys

from store_engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
