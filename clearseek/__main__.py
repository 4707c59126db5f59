"""``python -m clearseek``: the command line without an installed script."""

import sys

from clearseek.cli import main

sys.exit(main())
