"""`python -m console.stack FOLDER`: the guard of a run (guard.py). For people there is `concord stack`."""

import sys
from pathlib import Path

from console.stack.guard import main

sys.exit(main(Path(sys.argv[1])))
