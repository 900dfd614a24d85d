"""`python -m musekit.torchrun ...`: torchrun, whose exit code is that of the processes it started.

torchrun itself exits with 1 whatever went wrong. A job script must tell "state saved, go on" (75) from a user's mistake
(2) and from a crash, and torchrun's own report of it is forty lines where musekit has already said one.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun with these arguments; 0, or the exit code of the process that failed first (128 + n for signal n).

    75 on any rank wins: state is saved for all ranks together, and those that end a moment later may be cut short.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        codes = {failure.exitcode for failure in error.failures.values()}
        code = os.EX_TEMPFAIL if os.EX_TEMPFAIL in codes else first.exitcode
        if code not in (2, os.EX_TEMPFAIL):  # of these musekit has said more itself
            print(f"torchrun: rank {rank} ended with {code}", file=sys.stderr)
        return code if code >= 0 else 128 - code
    except RendezvousError as error:
        print(f"torchrun: this machine cannot meet the others, or has lost them ({error})", file=sys.stderr)
        return 1
    except SignalException as signal:  # the processes were told to stop and have ended
        print(f"torchrun: {signal}", file=sys.stderr)
        return 128 + signal.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
