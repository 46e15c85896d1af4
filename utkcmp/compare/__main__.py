"""``python -m utkcmp.compare``."""

import sys

from utkcmp.compare.command import main

sys.exit(main())
