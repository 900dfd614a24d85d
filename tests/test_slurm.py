"""slurm/*.sh as written, and what they do with mistakes, on a real Slurm of two nodes. The jobs: test_slurm_jobs.py."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
from slurm_cluster import PROGRAMS, ROOT, until
from slurm_runs import STEP, VENV, train_words

pytestmark = [pytest.mark.slurm, pytest.mark.system(*PROGRAMS)]

GPUS = {"cache": 1, "stage1": 2, "stage2": 4, "bench": 1, "generate": 4}


@pytest.mark.parametrize("name", GPUS)
def test_a_script_is_accepted_as_written(cluster, name, tmp_path):
    """With its own GPUs, time and signal; what #SBATCH lines say is what Slurm understood."""
    script, text = f"slurm/{name}.sh", (ROOT / "slurm" / f"{name}.sh").read_text()
    assert "to start at" in cluster.test_only(script)
    shown = cluster.job(job := cluster.submit("--hold", f"--output={tmp_path}/%j", script))
    cluster.run("scancel", job)
    assert shown["TresPerNode"] == f"gres:gpu:{GPUS[name]}"
    assert (shown["Requeue"], shown["NumNodes"], shown["JobName"]) == ("1", "1-1", f"muse-{name}")
    assert re.search(r"^#SBATCH --signal=B:USR1@\d+$", text, re.M)
    directives = [line for line in text.splitlines() if "SBATCH" in line and "sbatch" not in line]
    assert all(line.startswith("#SBATCH --") for line in directives), "a wrongly spaced one is silently a comment"
    assert len(text.splitlines()) <= 40
    assert "to start at" in cluster.test_only("--nodes=2", "--gpus-per-node=8", script, "--preset", "smoke")


@pytest.mark.system("bash", "shellcheck")
def test_the_scripts_are_clean_shell():
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "slurm").glob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for file in files:
        subprocess.run(["bash", "-n", file], cwd=ROOT, check=True)


def test_the_last_option_counts():
    """`option` reads --name value, --name=value and underscores; a value may look like an option's name."""
    ask = """SLURM_JOB_ID=1 MUSE_PROCS=1 MUSE_ENV=$1; . slurm/job.sh; shift; option run-folder "the default" "$@" """

    def option(*words: str) -> str:
        command = ["bash", "-c", ask, "_", VENV, *words]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert option("--preset", "smoke") == "the default\n"
    assert option("--run-folder", "a b", "--n", "1") == "a b\n"
    assert option("--run_folder=a", "--run-folder", "$(touch made) b_c") == "$(touch made) b_c\n"


def test_ranks_that_share_the_work_know_how_many_they_are_on_a_node(tmp_path):
    """Where a node has fewer GPUs than processes they can say so, instead of asking for one that is not there."""
    programs = {
        "srun": 'while [ "$1" != bash ]; do shift; done; export SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4\n'
        'exec "$@"',
        "python": 'echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE: $*"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    ask = "SLURM_JOB_ID=1 SLURM_JOB_NUM_NODES=2 MUSE_PROCS=2 MUSE_ENV=$1; . slurm/job.sh; PATH=$2:$PATH; apart cache x"
    command = ["bash", "-c", ask, "_", VENV, tmp_path]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told == "3 of 4, 1 of 2: -m musekit cache x\n"


def test_pieces_stay_when_the_same_job_gets_other_gpus_or_cpus(tmp_path):
    """A recipe names its CPU threads, which would follow from the allocation; an option of the user's still wins."""
    for name, text in {
        "activate": "PATH=$MUSE_ENV/bin:$PATH",
        "musekit": "",
        "scontrol": "",
        "srun": 'echo "$@"',
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def words(gpus: int, *more: str, **env: str) -> list[str]:
        job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "x", "SLURM_CPUS_PER_TASK": "32"}
        env = os.environ | job | {"SLURM_GPUS_ON_NODE": str(gpus), "MUSE_ENV": str(tmp_path), "MUSE_PORT": "1"} | env
        command = ["bash", "slurm/generate.sh", "--prompts", "p.txt", "--out", str(tmp_path / "out"), *more]
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
        told = (tmp_path / "out" / "slurm-1.log").read_text().split("-m musekit generate ")[-1]
        return told.split("\n")[0].split()

    assert words(4) == words(8) and words(4)[2:4] == ["--threads", "1"]
    assert words(4, "--threads", "8")[-2:] == ["--threads", "8"]
    assert "--threads" not in words(0, MUSE_PROCS="4")  # on CPUs they are what makes it fast


def test_a_shard_that_is_made_again_is_a_step_further(tmp_path):
    """`musekit cache --remake` writes under names that are there."""
    ask = """SLURM_JOB_ID=1 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=x MUSE_PROCS=1 MUSE_ENV=$1 SLURM_RESTART_COUNT=$3
        . slurm/job.sh; start "$2" """
    shard = tmp_path / "00000.safetensors"

    def stalls(restarts: int) -> str:
        subprocess.run(["bash", "-c", ask, "_", VENV, tmp_path, str(restarts)], cwd=ROOT, check=True)
        return (tmp_path / ".slurm-1").read_text().split("\n")[0]

    shard.write_text("one")
    assert [stalls(k) for k in range(3)] == ["0", "1", "2"]
    shard.write_text("two")
    assert [stalls(k) for k in (3, 4)] == ["0", "1"]


def test_the_cause_is_what_was_said_first_since_this_start(tmp_path):
    """Not a note, not an earlier start's mistake, and not another rank's "lost another rank", which comes last."""
    lines = ["job 1: start 1 at 09:00", "musekit: an old mistake", "job 1: start 2 at 10:00", "musekit: note: a note"]
    lines += [
        "musekit: the disk is full",
        "musekit: rank 1 lost another rank; its error is above or below this line",
    ]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    ask = "SLURM_JOB_ID=1 MUSE_PROCS=1 MUSE_ENV=$1; . slurm/job.sh; log=$2; cause"
    command = ["bash", "-c", ask, "_", VENV, tmp_path / "log"]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "musekit: the disk is full\n"


# -- mistakes -----------------------------------------------------------------------------------------------------


def test_a_mistake_is_told_and_ends_the_job(cluster, submit, tiny, tmp_path):
    """Exit 2 that Slurm sees, one line that says what to do, and no second start."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty/bin").mkdir(parents=True)
    (tmp_path / "empty/bin/activate").write_text(f"PATH={tmp_path}:/usr/bin:/bin")
    here = train_words(tiny, tmp_path / "run", STEP)
    few = ("--gpus-per-node=2",)
    jobs = {
        submit("stage1", *here, MUSE_ENV=str(tmp_path / "none")): "no virtual environment",
        submit("stage1", *here, MUSE_ENV=str(tmp_path / "empty")): "musekit is not installed",
        submit("stage1", *here, "--run-folder", str(tmp_path / "file")): "choose another folder",
        submit("stage1", *here, options=("--gpus-per-node=0",)): "MUSE_PROCS=2",
        submit("stage1", *here, cwd=tmp_path): "submit from the top of the checkout",
        submit("stage1", *here, "--train.bathc", "8"): "did you mean --train.batch?",
        submit("stage2", *here, "--preset", "mini", options=few): "GPUs",
    }
    for job, said in jobs.items():
        shown = cluster.wait(job, "FAILED", seconds=120)
        assert (shown["ExitCode"], shown["Restarts"]) == ("2:0", "0"), said
        assert said in (tmp_path / f"{job}.out").read_text()


def test_a_job_that_gets_no_further_gives_up(cluster, submit, tmp_path):
    """A musekit that always says "state saved, go on" and saves nothing is started three times more, not for ever."""
    never = textwrap.dedent(f"""\
        #!/bin/sh
        [ "$1" = -c ] && exec {sys.executable} "$@"
        exit 75
        """)
    for name, text in {"activate": "PATH=$MUSE_ENV/bin:$PATH\n", "musekit": never, "python": never}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    job = submit("stage1", "--run-folder", str(tmp_path / "run"), MUSE_ENV=str(tmp_path))

    def failed():
        cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)
        return cluster.job(job)["JobState"] == "FAILED"

    until("it gives up", failed, 90, every=3)  # slurmd refuses a job in the second in which it ended
    shown = cluster.job(job)
    assert (shown["ExitCode"], shown["Restarts"]) == ("1:0", "3")
    assert "gave up: 4 starts without getting any further" in (tmp_path / f"{job}.out").read_text()
