"""`python -m poisonfrogs`."""

import sys

from poisonfrogs.cli import main

sys.exit(main())
