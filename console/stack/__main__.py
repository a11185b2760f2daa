"""What the Makefile and `up` start; people have `concord stack`.

python -m console.stack prepare HOME    fetch what a stack needs
python -m console.stack clean HOME      stop all runs of this home, remove what they keep
python -m console.stack guard FOLDER    be the guard of a run (guard.py)
"""

import sys
from pathlib import Path

from console import stack
from console.stack.guard import main as guard


def main(does: str, path: Path) -> int:
    try:
        match does:
            case "prepare":
                stack.prepare(path, progress=print)
            case "clean":
                stack.clean(path, progress=print)
            case "guard":
                return guard(path)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except stack.StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
