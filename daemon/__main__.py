"""`python -m daemon` is `zsad`."""

import sys

from daemon.cli.main import main

sys.exit(main())
