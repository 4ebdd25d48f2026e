"""`python -m hpcme`: the same as the command hpcme."""

from __future__ import annotations

import sys

from hpcme.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
