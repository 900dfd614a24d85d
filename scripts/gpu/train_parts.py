"""Second call: train the parts in order, each within its minutes, and bring the weights back."""
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

T0 = time.time(); END = T0 + float(os.environ.get("TOTAL_S", 560)); OUT = Path(os.environ["OUT"]); OUT.mkdir(exist_ok=True, parents=True)
C, W, R = os.environ.get("CACHE", "/tmp/cache"), os.environ.get("WEIGHTS", "/tmp/w"), os.environ.get("RUNS", "/tmp/runs")
LOG = open(OUT / "log.txt", "a", buffering=1)
def say(*x):
    print(f"[{time.time()-T0:6.1f}]", *x, flush=True); print(f"[{time.time()-T0:6.1f}]", *x, file=LOG)
class Tee:
    def write(self, s): sys.__stdout__.write(s); LOG.write(s); return len(s)
    def flush(self): sys.__stdout__.flush()
sys.stderr = Tee()
import torch

torch.set_num_threads(2); torch.set_float32_matmul_precision("high"); torch.backends.cudnn.benchmark = True
from musekit.cli import main


def muse(*words):
    say("musekit", *words)
    try:
        code = main(list(map(str, words)))
    except SystemExit as e: code = e.code
    except BaseException: say(traceback.format_exc()[-1500:]); code = 1
    if torch.cuda.is_available(): torch.cuda.empty_cache()
    say("->", code)
    return not code
def wait(path, until):
    while not os.path.exists(path) and time.time() < until: time.sleep(0.5)
    say(path, os.path.exists(path))
def back(name):
    try:
        for f in Path(W).glob("*"):
            if f.suffix == ".safetensors":
                if f.stem == name:
                    if f.stat().st_size > 15_500_000: subprocess.run(["split", "-b", "12000000", str(f), str(OUT / f"{name}.part")])
                    else: shutil.copy(f, OUT / f.name)
        subprocess.run(f"tar czPf {OUT}/rest.tgz {W}/*.json {R}/*/*.json* /tmp/render.log", shell=True)
    except BaseException: say(traceback.format_exc())
def left(): return END - time.time()
e = os.environ.get
WORKERS = int(e("WORKERS", 14))
def everything():
    phases = e("PHASES", "codec,rows,embedder,embeddings,stage2").split(",")
    if "codec" in phases:
        wait("/tmp/clips1.done", T0 + 60)
        muse("train", "codec", "--cache", C, "--run-folder", R + "/codec", "--out", W, "--train.minutes", e("CODEC_MIN", 2.4), "--train.workers", e("CODEC_WORKERS", 6),
             "--train.batch", e("CODEC_BATCH", 64), "--train.micro-batch", e("CODEC_BATCH", 64), "--train.samples", 10**7, "--train.log-every", e("LOG", 6400), "--train.validate-every", 10**9, "--train.warmup", 12800, "--train.checkpoint-minutes", 60)
        back("codec")
    if "rows" in phases:
        wait("/tmp/clips2.done", T0 + float(e("RENDER_UNTIL", 230)))
        if not os.path.exists("/tmp/clips2.done"):  # what is there: the contiguous beginning of the plan
            subprocess.run(["pkill", "-TERM", "-f", "kinds clips"]); time.sleep(4)
            subprocess.run(["pkill", "-KILL", "-f", "kinds clips"])
            n = len(list(Path(C, "records").rglob("*.json"))) - 30
            say("clips there", n)
            muse("cache", "--corpus", "scores", "--out", C, "--kinds", "clips", "--workers", 14, "--n", n)
        subprocess.run(f"cp {C}/clips.jsonl /tmp/clips.jsonl; xz -1 -k -T4 -c {C}/clips.jsonl | wc -c", shell=True)
        muse("cache", "--out", C, "--kinds", "tokens", "views", "latents", "--weights", W, "--workers", WORKERS)
    if "embedder" in phases:
        muse("train", "embedder", "--cache", C, "--run-folder", R + "/embedder", "--out", W, "--train.minutes", e("EMB_MIN", 0.7), "--train.workers", WORKERS, "--train.samples", 10**6,
             "--train.log-every", e("LOG", 5120), "--train.validate-every", 10**9, "--train.warmup", 6400, "--train.checkpoint-minutes", 60)
        back("embedder")
    if "embeddings" in phases:
        muse("cache", "--out", C, "--kinds", "embeddings", "--weights", W, "--workers", WORKERS)
        subprocess.run(f"tar cf {OUT}/embeddings.tar -C {C} embeddings clips.jsonl && xz -1 -T8 {OUT}/embeddings.tar", shell=True)
    if "stage2" in phases:
        minutes = float(e("STAGE2_MIN", 0)) or max(0.3, (left() - 25) / 60)
        muse("train", "stage2", "--cache", C, "--run-folder", R + "/stage2", "--out", W, "--train.minutes", f"{minutes:.3f}", "--train.workers", WORKERS,
             "--train.batch", e("S2_BATCH", 64), "--train.micro-batch", e("S2_BATCH", 64), "--train.samples", 10**7, "--train.log-every", e("LOG", 6400), "--train.validate-every", 10**9, "--train.warmup", 12800, "--train.checkpoint-minutes", 60)
        back("stage2")
    say("done", sorted((f.name, f.stat().st_size) for f in OUT.iterdir()))
if __name__ == "__main__":
    everything()
