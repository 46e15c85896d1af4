"""``python -m utkcmp.report``."""

import sys

from utkcmp.report.command import main

sys.exit(main())
