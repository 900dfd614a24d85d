"""slurm/*.sh on a real Slurm of two nodes: as written, with mistakes, and at work through signals and lost nodes.

Everything runs on CPUs (gloo) with the smoke preset, as many processes as GPUs are requested.
"""

import json
import os
import re
import shutil
import subprocess
import time

import pytest
from fixtures import write_clips
from published import lines, musicbench_row, sound
from slurm_cluster import KILL_WAIT, NODES, PROGRAMS, ROOT, STEP, VENV, log, samples, saved, train_words, until

from musekit.cache import Shards

pytestmark = [pytest.mark.slurm, pytest.mark.system(*PROGRAMS)]

GPUS = {"check": 2, "cache": 1, "stage1": 2, "stage2": 4, "bench": 1, "generate": 4}


@pytest.mark.parametrize("name", GPUS)
def test_a_script_is_accepted_as_written(cluster, name, tmp_path):
    """With its own GPUs, time and signal; what #SBATCH lines say is what Slurm understood."""
    script, text = f"slurm/{name}.sh", (ROOT / "slurm" / f"{name}.sh").read_text()
    assert "to start at" in cluster.submit("--test-only", script)
    shown = cluster.job(job := cluster.submit("--hold", f"--output={tmp_path}/%j", script))
    cluster.run("scancel", job)
    assert shown["TresPerNode"].replace("/", ":") == f"gres:gpu:{GPUS[name]}"  # "gres/gpu" from 23.02 on
    assert (shown["Requeue"], shown["NumNodes"], shown["JobName"]) == ("1", "1-1", f"muse-{name}")
    assert re.search(r"^#SBATCH --signal=B:USR1@\d+$", text, re.M)
    directives = [line for line in text.splitlines() if "SBATCH" in line and "sbatch" not in line]
    assert all(line.startswith("#SBATCH --") for line in directives), "a wrongly spaced one is silently a comment"
    assert "to start at" in cluster.submit("--test-only", "--nodes=2", "--gpus-per-node=8", script, "--preset", "smoke")


@pytest.mark.system("bash", "shellcheck")
def test_the_scripts_are_clean_shell():
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "slurm").glob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for file in files:
        subprocess.run(["bash", "-n", file], cwd=ROOT, check=True)


def shell(commands: str, *arguments, programs: dict[str, str] | None = None, folder=None, **env: str) -> str:
    """Output of bash commands after `. slurm/job.sh` ("": of a job script and its words), where `programs` are scripts
    in `folder`.
    """
    for name, text in (programs or {}).items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "x", "MUSE_PROCS": "1"}
    path = f"PATH={folder}:$PATH; " if folder else ""
    command = ["bash", "-c", f". slurm/job.sh; {path}{commands}", "_"] if commands else ["bash"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True,
        env=os.environ | job | {"MUSE_ENV": VENV} | env,
    ).stdout  # fmt: skip


def test_the_last_option_counts():
    """`option` reads --name value, --name=value and underscores; a value may look like an option's name."""
    for words, value in (
        (["--preset", "smoke"], "the default"),
        (["--run-folder", "a b", "--n", "1"], "a b"),
        (["--run_folder=a", "--run-folder", "$(touch made) b_c"], "$(touch made) b_c"),
    ):
        assert shell('option run-folder "the default" "$@"', *words) == f"{value}\n"


def test_pieces_stay_when_the_same_job_gets_other_gpus_or_cpus(tmp_path):
    """A recipe names its CPU threads, which would follow from the allocation."""
    programs = {"activate": "PATH=$MUSE_ENV/bin:$PATH", "musekit": "", "scontrol": "", "srun": 'echo "$@"'}
    (tmp_path / "bin").mkdir()
    for gpus, procs in (("4", ""), ("0", "4")):  # on CPUs, threads are what makes it fast
        job = {"SLURM_GPUS_ON_NODE": gpus, "MUSE_PROCS": procs, "MUSE_PORT": "1", "SLURM_CPUS_PER_TASK": "32"}
        script = ["slurm/generate.sh", "--prompts", "p.txt", "--out", tmp_path / gpus, "--n", "2"]
        shell("", *script, programs=programs, folder=tmp_path / "bin", MUSE_ENV=str(tmp_path), **job)
        assert ("--threads 1" in (tmp_path / gpus / "slurm-1.log").read_text()) == (gpus != "0")


@pytest.mark.parametrize("container", ["apptainer exec --nv muse.sif", "--container-image=muse.sqsh"])
def test_a_container_is_one_variable(container, tmp_path):
    """A command in front of python, or options of srun; nothing of the host's environment is needed."""
    env = {"MUSE_CONTAINER": container, "MUSE_ENV": "/nowhere", "MUSE_PORT": "1", "SLURM_NTASKS": "1"}
    programs = {"srun": 'echo "$@"', "scontrol": "echo host"}
    for run in ("run_torchrun", "run_independent"):
        said = shell(f"{run} generate", programs=programs, folder=tmp_path, **env)
        before, after = said.split(" _ ", 1)
        assert said.count(container) == 1 and "musekit" in after
        assert after.startswith(container) if container[0] != "-" else before.index(container) < before.index("bash")


def test_a_job_that_makes_no_progress_gives_up(tmp_path):
    """Progress is a new file, or one that is computed again under its name, as by `musekit cache --remake`."""

    def stalls(restarts: int) -> str:
        shell('start "$1"', tmp_path, SLURM_RESTART_COUNT=str(restarts))
        return (tmp_path / ".slurm-1").read_text().split("\n")[0]

    (tmp_path / "00000.safetensors").write_text("one")
    assert [stalls(k) for k in range(3)] == ["0", "1", "2"]
    (tmp_path / "00000.safetensors").write_text("two")
    assert [stalls(k) for k in range(3, 6)] == ["0", "1", "2"]
    with pytest.raises(subprocess.CalledProcessError):
        stalls(6)
    assert "gave up: 4 starts without any progress" in (tmp_path / "slurm-1.log").read_text()


LOST = "musekit: rank 1 lost another rank; its error is above or below this line"


@pytest.mark.parametrize(
    "code, error, alive, requeued",
    [
        (2, "musekit: unknown option", 1, False),  # a mistake: whatever srun says of the nodes
        (2, "", 1, True),
        (2, "", 0, False),
        (137, "", 1, True),
        (75, "", 0, True),
    ],
)
def test_only_saved_state_and_lost_nodes_are_requeued(tmp_path, code, error, alive, requeued):
    """The cause is the first error since this start: no note, no earlier start's error, and not "lost another rank",
    which other ranks report, perhaps first."""
    lines = ["job 1: start 1 at 09:00", "musekit: an old error", "job 1: start 2 at 10:00", "musekit: note: a note"]
    lines += [LOST, error, "musekit: a later error"] if error else [LOST]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    assert shell("log=$1; cause", tmp_path / "log") == f"{error}\n"
    programs = {"srun": f'echo "$*" >{tmp_path}/asked; exit {alive}', "scontrol": f'echo "$*" >{tmp_path}/requeued'}
    run = f"log={tmp_path}/log; exec 3>&2; fails() {{ return {code}; }}; (work fails) || :"
    shell(run, programs=programs, folder=tmp_path)
    assert (tmp_path / "requeued").exists() == requeued
    assert not (tmp_path / "asked").exists() or "--cpus-per-task=1 true" in (tmp_path / "asked").read_text()


@pytest.mark.long
def test_a_mistake_ends_the_job_with_one_line(cluster, submit, tiny, tmp_path):
    """Exit 2 that Slurm sees, one line that says what to do, and no second start."""
    (tmp_path / "file").write_text("")
    here = train_words(tiny, tmp_path / "run", STEP)
    jobs = {
        submit("stage1", *here, MUSE_ENV=str(tmp_path / "none")): "no virtual environment",
        submit("stage1", *here, "--run-folder", str(tmp_path / "file")): "choose another folder",
        submit("stage1", *here, options=("--gpus-per-node=0",)): "MUSE_PROCS=2",
        submit("stage1", *here, cwd=tmp_path): "submit from the top of the checkout",
        submit("stage2", *here, "--preset", "mini", options=("--gpus-per-node=2",)): "GPUs",
    }
    for job, said in jobs.items():
        shown = cluster.wait(job, "FAILED", seconds=120)
        assert (shown["ExitCode"], shown["Restarts"]) == ("2:0", "0"), said
        assert said in (tmp_path / f"{job}.out").read_text()


def test_stage1_continues_after_the_signal(cluster, submit, tiny, tmp_path):
    """USR1, saved, requeued by itself, resumed, done; no sample is trained on twice."""
    run, total = tmp_path / "run", 40 * STEP
    job = submit("stage1", *train_words(tiny, run, total))
    until("training has begun", lambda: samples(run), 120)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    cluster.restart_now(job)
    assert 0 < saved(run) < total
    cluster.wait(job, "COMPLETED", seconds=120)
    assert samples(run) == list(range(STEP, total + 1, STEP))
    assert saved(run) == total and (run / "weights" / "stage1.safetensors").exists()
    told = log(run, job)
    assert "1 x 2 processes" in told and "start 1 at" in told and "start 2 at" in told and "done" in told
    assert "commit" in told and str(run) in (tmp_path / f"{job}.out").read_text()
    assert json.loads((run / "provenance.json").read_text())["slurm"] == {"job": job, "nodes": "1"}


@pytest.mark.long
def test_a_preempted_job_saves_in_its_grace_time_and_starts_again(cluster, submit, tiny, tmp_path):
    """And it needs nothing of the environment in which sbatch was called."""
    run, total = tmp_path / "run", 20 * STEP
    options = ("--partition=low", f"--export=NONE,MUSE_ENV={VENV},OMP_NUM_THREADS=1")
    job = submit("stage1", *train_words(tiny, run, total), options=options)
    until("training has begun", lambda: samples(run), 120)
    other = cluster.submit("--exclusive", "--nodes=2", f"--output={tmp_path}/%j", "--wrap", "sleep 1")
    cluster.restart_now(job)
    assert 0 < saved(run) < total and "to be started again" in log(run, job)
    assert cluster.job(other)["JobState"] == "COMPLETED"
    if cluster.wait(job, "COMPLETED", "PENDING", seconds=120)["JobState"] == "PENDING":
        # Slurm 24.11 starts a job that was preempted once more after its end: nothing is left to do then
        cluster.restart_now(job)
        cluster.wait(job, "COMPLETED", seconds=120)
    assert samples(run) == list(range(STEP, total + 1, STEP)) and "saved at sample" in log(run, job)


@pytest.mark.long
def test_stage2_on_two_nodes_survives_a_lost_one_and_scancel(cluster, submit, tiny, tmp_path):
    """A node's daemon is killed, then a node with all its processes, so that the job fails before Slurm knows why: the
    job starts again and resumes both times. scancel saves; the next sbatch resumes.

    Batches come from processes (--train.workers), which scancel signals too, and which must not end before the step.
    """
    run, nodes = tmp_path / "run", ("--nodes=2", "--gpus-per-node=1")

    def failed() -> bool:
        return cluster.job(job)["JobState"] == "FAILED"

    job = submit("stage2", *train_words(tiny, run, 10**9), "--train.workers", "1", options=nodes)
    until("a checkpoint", lambda: saved(run) > STEP, 120)
    for start, crash in enumerate((False, True), 1):
        cluster.kill_node(NODES[1], processes=crash)
        until("the job is taken off its nodes", lambda n=start: cluster.job(job).get("Restarts") == f"{n}", 90)
        cluster.start_node(NODES[1])
        if not crash:  # the node ends what it finds of the job after KillWait, be it of the next start
            time.sleep(KILL_WAIT + 2)
        cluster.restart_now(job)
        until("the next start", lambda n=start: f"start {n + 1} at" in log(run, job), 60)
        before = saved(run)
        until("training goes on", lambda b=before: saved(run) > b or failed(), 240)
        assert not failed(), log(run, job)[-1500:]
    assert samples(run).count(STEP) == 1, "it began anew"
    assert "because a node is lost" in log(run, job)

    before = saved(run)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    until("the nodes are idle", lambda: cluster.states() == {"idle"}, 60)
    end = saved(run)
    assert end > before and "saved at sample" in log(run, job) and "stopped from outside" in log(run, job)
    total = -(-end // STEP) * STEP + STEP
    after = submit("stage2", *train_words(tiny, run, total), options=nodes)
    cluster.wait(after, "COMPLETED", seconds=120)
    assert samples(run)[-1] == saved(run) == total and samples(run).count(STEP) == 1
    assert "2 x 1 processes" in log(run, after) and (run / "weights" / "stage2.safetensors").exists()


@pytest.mark.long
def test_a_cache_by_an_array_of_jobs(cluster, submit, tiny, tmp_path):
    """Two jobs, each with its share; one is signalled and continues; together they compute all."""
    cache, n = tmp_path / "cache", 256
    write_clips(cache, "r" * n, lambda i: 1.2)
    words = ["--preset", "smoke", "--out", str(cache), "--kinds", "views", "latents", "--workers", "1"]
    job = submit("cache", *words, "--weights", str(tiny.weights), options=("--array=0-1",), MUSE_PROCS="1")
    until("a shard of the first job", lambda: list((cache / "views").glob("*.safetensors")), 90)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_0")
    cluster.restart_now(f"{job}_0")
    for task in (0, 1):
        cluster.wait(f"{job}_{task}", "COMPLETED")
    for kind in ("views", "latents"):
        shards = Shards(cache / kind)
        assert shards.manifest["complete"] and len(shards.index) == n
    assert "start 2 at" in log(cache, f"{job}_0") and "start 2 at" not in log(cache, f"{job}_1")


@pytest.mark.long
def test_the_readmes_road_from_a_data_set_to_pieces(cluster, tiny, tmp_path):
    """Its very lines, with fewer tasks, small settings and a data set of the published layout added at their ends."""
    names = [f"data/{i:011d}.wav" for i in range(48)]
    for i, name in enumerate(names):
        sound(tmp_path / "MusicBench" / "datashare" / name, 2.0, 220.0 + 10 * i)
    (tmp_path / "MusicBench" / "MusicBench_train.json").write_text(lines([musicbench_row(name) for name in names]))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a slow waltz", "n": 2}\n')
    shutil.copytree(tiny.weights, tmp_path / "weights", ignore=lambda *_: ["stage1.safetensors", "stage2.safetensors"])
    small = f"--train.samples {2 * STEP} --train.batch 16 --train.micro-batch 8 --train.workers 0 --train.no-compile"
    more = {
        "cache": f"--weights {tiny.weights}", "stage1": f"--preset smoke {small}", "stage2": f"--preset smoke {small}",
        "generate": "--seconds 1 --steps 2",
    }  # fmt: skip
    given = {
        "/data": str(tmp_path),
        "--preset paper": "--preset smoke",
        "0-15": "0-1",
        "--out pieces": f"--out {tmp_path}/pieces",
    }
    given |= {" --init stabilityai/stable-audio-open-1.0": "", "prompts.jsonl": f"{tmp_path}/prompts.jsonl"}
    road = (ROOT / "slurm" / "README.md").read_text().partition("## From nothing to trained weights")[2]
    commands = re.findall(r"^    sbatch (.*?)slurm/(\w+)\.sh(.*)$", road, re.M)[:5]
    assert [name for _, name, _ in commands] == ["check", "cache", "stage1", "stage2", "generate"]
    env = {"MUSE_ENV": VENV, "OMP_NUM_THREADS": "1", "MUSEKIT_HOME": str(tmp_path), "MUSE_PROCS": "2"}
    for options, name, words in commands[1:]:
        for old, new in given.items():
            options, words = options.replace(old, new), words.replace(old, new)
        words = f"--output={tmp_path}/{name}-%j.out {options} slurm/{name}.sh {words} {more[name]}"
        done = subprocess.run(
            ["sbatch", *words.split()], env=cluster.env | env, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, (
            name,
            done.stderr,
            [p.read_text()[-2000:] for p in tmp_path.glob(f"{name}-*.out")],
        )
    assert len(list((tmp_path / "pieces").rglob("*.wav"))) == 2
    assert {"stage1.safetensors", "stage2.safetensors"} <= {p.name for p in (tmp_path / "weights").iterdir()}
