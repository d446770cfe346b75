"""`python -m gtasker`: the command line.

Invariant: nothing but the call of it.
"""

from __future__ import annotations

import sys

from gtasker.cli import main

if __name__ == "__main__":
    sys.exit(main())
