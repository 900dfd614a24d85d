"""`launch`: a musekit command in processes of its own, from Python or a notebook.

    launch(["train", "stage2", "--preset", "mini"], processes=2)

runs torchrun on this machine (gloo on CPUs, nccl on GPUs) and follows its log; nothing of torch's multiprocessing
happens in the kernel. `python -m musekit.launch ...` is torchrun with the exit code of the processes that it started.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

from musekit.config import MuseError
from musekit.distributed import LOST, RESUMABLE

SHOWN_LINES = 20  # of the log in an error where no line explains the failure


def launch(arguments: Sequence, processes: int = 1, on_line: Callable[[str], None] = print) -> None:
    """Run `musekit <arguments>` in `processes` processes until it ends.

    Each line of the log goes to `on_line`. Raises MuseError with what the failing rank wrote. An interrupt, or an error
    of `on_line`, lets the processes save their state first; torchrun gives its ranks 30 s for that.
    """
    words = ["-m", "musekit", *map(str, arguments)]
    if processes < 1:
        raise MuseError(f"processes must be 1 or more, not {processes}")
    if processes > 1:
        words = ["-m", "musekit.launch", "--standalone", f"--nproc-per-node={processes}", *words]
    threads = max(1, (os.cpu_count() or 1) // processes)
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # a notebook's interrupt reaches the kernel only, which forwards it once
    )  # fmt: skip
    log = []
    with process:
        try:
            for line in map(str.rstrip, process.stdout):
                log.append(line)
                on_line(line)
        except BaseException as error:
            process.terminate()
            for line in map(str.rstrip, process.stdout):
                if isinstance(error, KeyboardInterrupt):
                    on_line(line)
            process.wait()  # `with` does not wait for long after an interrupt
            raise
    if process.returncode:
        raise MuseError(failure(arguments, process.returncode, log))


def failure(arguments: Sequence, code: int, log: Sequence[str]) -> str:
    """The reason in one line: what the first failing rank wrote, else the end of the log."""
    log = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in log]
    command = f"`musekit {' '.join(map(str, arguments))}`"
    if code == RESUMABLE:
        return f"{command} was stopped by a signal and has saved its state; launch it again to continue"
    explained = [line.split("musekit: ", 1)[1] for line in log if "musekit: " in line and "musekit: note:" not in line]
    uncaught = [line for line in log if line.split(":")[0].endswith(("Error", "Exception"))]
    reasons = sorted(explained + uncaught, key=lambda line: LOST in line)  # a rank that lost another one is no reason
    return f"{command} failed with {code}: " + (reasons[0] if reasons else "\n".join(log[-SHOWN_LINES:]))


def torchrun() -> int:
    """Run torchrun with this process's arguments; returns 0, or the exit code of the rank that failed first, or 128 +
    its signal.

    torchrun itself exits with 1 whatever the reason. 75 on any rank wins, also after a signal to torchrun: the state of
    all ranks is saved, and a rank that ends a moment later may be killed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import subprocess_handler
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    ranks = []

    def popen(*words, **options) -> subprocess.Popen:
        ranks.append(subprocess.Popen(*words, **options))
        return ranks[-1]

    subprocess_handler.subprocess_handler.Popen = popen  # a SignalException does not tell how the ranks ended
    arguments = sys.argv[1:]
    # torchrun's parser would take `--n` after the module for an abbreviation of its own options
    ours = arguments.index("-m") + 2 if "-m" in arguments else len(arguments)
    try:
        options = run.parse_args(arguments[:ours])
        options.training_script_args += arguments[ours:]
        run.run(options)
        return 0
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        codes = {failed.exitcode for failed in error.failures.values()}
        code = RESUMABLE if RESUMABLE in codes else first.exitcode
        why = "" if code in (2, RESUMABLE) else f"rank {rank} ended with {code}"  # those musekit has explained
    except RendezvousError as error:
        code, why = 1, f"this machine cannot meet the others, or has lost them ({error})"
    except SignalException as error:
        code, why = -error.sigval, str(error)
        if RESUMABLE in [rank.poll() for rank in ranks]:
            code, why = RESUMABLE, ""
    if why:
        print(f"torchrun: {why}", file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(torchrun())
