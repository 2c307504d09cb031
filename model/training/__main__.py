"""`python -m wm_env.model.training COMMAND`: see command.py."""

import sys

from wm_env.model.interrupts import end_process
from wm_env.model.training.command import PROG, main

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        print(f"{PROG}: {str(stop) or 'interrupted; the same command goes on'}", file=sys.stderr)
        end_process(128 + getattr(stop, "signal", 2))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
