"""slurm/*.sh at work on a real Slurm of two nodes: to the end, through signals, time limits, lost nodes and scancel.

Everything runs on CPUs (gloo) with the smoke preset, as many processes as GPUs are asked for.
"""

import json

import pytest
from fixtures import write_clips
from slurm_cluster import NODES, PROGRAMS, until
from slurm_runs import STEP, log, samples, saved, train_words

from musekit.cache import SHARD, Shards

pytestmark = [pytest.mark.slurm, pytest.mark.system(*PROGRAMS)]


def test_stage1_goes_on_after_the_signal(cluster, submit, tiny, tmp_path):
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


def test_stage2_on_two_nodes_survives_a_lost_one_and_scancel(cluster, submit, tiny, tmp_path):
    """A node's daemon is killed: Slurm starts the job again, and it resumes; scancel saves; the next sbatch resumes.

    Batches come from processes (--train.workers), which scancel signals too, and which must not end before the step.
    """
    run, nodes = tmp_path / "run", ("--nodes=2", "--gpus-per-node=1")
    job = submit("stage2", *train_words(tiny, run, 10**9), "--train.workers", "1", options=nodes)
    until("a checkpoint", lambda: saved(run) > STEP, 120)
    cluster.kill_node(NODES[1])
    until("the job is taken off its nodes", lambda: cluster.job(job).get("Restarts") == "1", 90)
    cluster.start_node(NODES[1])
    cluster.restart_now(job)
    until("the second start", lambda: "start 2 at" in log(run, job), 60)
    before = saved(run)
    until("training goes on", lambda: saved(run) > before, 120)
    assert samples(run).count(STEP) == 1, "it began anew"

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


def test_a_crashed_node_is_no_end(cluster, submit, tiny, tmp_path):
    """A node dies with all that it ran: the job fails before Slurm knows why, finds that out, and starts again."""
    run = tmp_path / "run"
    job = submit("stage1", *train_words(tiny, run, 10**9), options=("--nodes=2", "--gpus-per-node=1"))
    until("a checkpoint", lambda: saved(run) > STEP, 120)
    cluster.kill_node(NODES[1], processes=True)
    until("the job is taken off its nodes", lambda: cluster.job(job).get("Restarts") == "1", 90)
    cluster.start_node(NODES[1])
    cluster.restart_now(job)
    until("the second start", lambda: "start 2 at" in log(run, job), 60)
    assert "because a node is lost" in log(run, job)
    before = saved(run)
    until("training goes on", lambda: saved(run) > before, 120)
    assert samples(run).count(STEP) == 1, "it began anew"
    cluster.run("scancel", job)


def test_the_time_limit_is_no_end(cluster, submit, tiny, tmp_path):
    """Slurm itself sends the signal before the limit; the job saves and waits to start again. No GPUs are asked for."""
    run = tmp_path / "run"
    words, options = train_words(tiny, run, 10**9), ("--time=1", "--signal=B:USR1@58", "--gpus-per-node=0")
    job = submit("stage1", *words, options=options, MUSE_PROCS="1")
    until("the job waits to start again", lambda: cluster.job(job).get("Restarts") == "1", 100)
    assert saved(run) > 0 and "the time limit is near" in log(run, job)
    cluster.run("scancel", job)


# -- what ranks share out ----------------------------------------------------------------------------------------


def test_a_cache_by_an_array_of_jobs(cluster, submit, tiny, tmp_path):
    """Two jobs, every one with its share of the shards; one is signalled and goes on; together they made all."""
    cache, n = tmp_path / "cache", 4 * SHARD
    write_clips(cache, "r" * n, lambda i: 1.2)
    words = ["--preset", "smoke", "--out", str(cache), "--kinds", "spectra", "views", "latents", "--workers", "1"]
    job = submit("cache", *words, "--weights", str(tiny.weights), options=("--array=0-1",), MUSE_PROCS="1")
    until("a shard of the first job", lambda: list((cache / "spectra").glob("*00000.safetensors")), 90)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_0")
    cluster.restart_now(f"{job}_0")
    for task in (0, 1):
        cluster.wait(f"{job}_{task}", "COMPLETED")
    for kind in ("spectra", "latents"):
        shards = Shards(cache / kind)
        assert shards.manifest["complete"] and len(shards.index) == n
    assert "start 2 at" in log(cache, f"{job}_0") and "start 2 at" not in log(cache, f"{job}_1")


def test_pieces_by_all_ranks(cluster, submit, tiny, tmp_path):
    """Two ranks share a file of prompts, are signalled, go on; every piece is there with its recipe."""
    out, prompts = tmp_path / "out", tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"a {i} piano", "n": 8}) + "\n" for i in ("sad", "glad", "slow")))
    words = ["--prompts", str(prompts), "--weights", str(tiny.weights), "--out", str(out)]
    words += ["--seconds", "1", "--micro-batch", "1", "--threads", "1"]
    job = submit("generate", *words, options=("--gpus-per-node=2",), MUSE_PROCS="2")
    until("a piece", lambda: list(out.glob("*.json")), 90)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    cluster.restart_now(job)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 0 < len(before) < 24
    cluster.wait(job, "COMPLETED", seconds=120)
    assert len(list(out.glob("*.wav"))) == len(list(out.glob("*.json"))) == 24
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "what was there is kept"
    assert "1 x 2 processes" in log(out, job)


def test_bench(cluster, submit, tiny, tmp_path):
    job = submit("bench", "--quick", "--weights", str(tiny.weights), "--results", str(tmp_path / "results"))
    cluster.wait(job, "COMPLETED", seconds=240)
    content = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert content["rows"] and content["provenance"]["slurm"]["job"] == job
