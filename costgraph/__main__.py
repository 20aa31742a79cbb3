"""``python -m costgraph``."""

import sys

from costgraph.cli import main

sys.exit(main())
