"""``python -m pushforward`` is the command line."""

import sys

from pushforward.cli import main

sys.exit(main())
