"""Caching at scale: ranks and arrays, signals, sound that changes, other weights, flipped bytes."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch
from fixtures import SAMPLE_RATE, sinusoids, write_clips

from musekit import cache as cache_module
from musekit import cli, distributed, flow, pretrained
from musekit.cache import SHARD, Shards, build_shards, caption_id, merge_manifest, read_clips, workers
from musekit.cache import precompute as precompute_module
from musekit.cache.build import alone, share
from musekit.cache.makers import maker, named
from musekit.cache.precompute import each_clip, precompute
from musekit.cache.sources import Sources
from musekit.config import CodecConfig, EmbedderConfig, MuseConfig, MuseError, TextConfig, mini, paper, smoke
from musekit.train.data import Stage1Data, Stage2Data

IDS = [f"clip-{i:03d}" for i in range(2 * SHARD + 10)]


def numbers(ids):
    """Rows that tell their id."""
    return {"x": torch.tensor([float(i[-3:]) for i in ids])[:, None, None].expand(-1, 4, 2)}, {}


def shard_times(folder: Path) -> dict:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("0*.safetensors")}


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    "environment, said",
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MAX": "7"}, (2, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
            | {"SLURM_ARRAY_TASK_MAX": "16", "SLURM_ARRAY_TASK_STEP": "2", "RANK": "1", "WORLD_SIZE": "4"},
            (9, 16),
        ),
    ],
)
def test_the_share_of_a_rank_within_an_array(environment, said):
    assert share(environment) == said


def test_an_array_with_gaps_would_leave_work_undone():
    with pytest.raises(MuseError, match="--array=0-N"):
        share({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MAX": "7"})


def test_two_ranks_that_finish_together_leave_the_whole_sum(tmp_path, monkeypatch):
    """Rank 1's last shard lands after rank 0 has looked and before it writes: the worst moment."""
    build_shards(tmp_path / "done", IDS, "maker", numbers)
    build_shards(tmp_path / "x", IDS, "maker", numbers, rank=0, world=2)
    write, late = cache_module.write_atomic, []

    def slow_write(path, data):
        if path.name == "manifest.json" and not late:
            late.append(True)
            for name in ("00001.safetensors", "00001.json"):
                shutil.copy(tmp_path / "done" / name, tmp_path / "x" / name)
            whole = merge_manifest(tmp_path / "x", 3, "maker")  # rank 1 is faster
            assert whole["complete"]
        write(path, data)

    monkeypatch.setattr(cache_module, "write_atomic", slow_write)
    assert merge_manifest(tmp_path / "x", 3, "maker")["complete"]
    assert Shards(tmp_path / "x").manifest["complete"] and len(Shards(tmp_path / "x")) == len(IDS)


def test_who_waited_for_the_clips_sees_that_they_were_made(tmp_path):
    """Clips that appear while this one waits are the other's work, however long it keeps the lock afterwards."""
    with ThreadPoolExecutor(1) as pool, open(tmp_path / ".lock", "a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def wait() -> bool:
            with alone(tmp_path, True, lambda: 0) as made:
                return made

        waiting = pool.submit(wait)
        time.sleep(0.3)
        (tmp_path / "clips.jsonl").write_text("{}")
        time.sleep(0.5)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert waiting.result(10)


def music(folder: Path, n: int, seconds: float = 1.5) -> Path:
    folder.mkdir()
    for i in range(n):
        soundfile.write(folder / f"{i:03d}.wav", sinusoids([200 + i], seconds).T, SAMPLE_RATE)
        (folder / f"{i:03d}.txt").write_text(f"a tone of {200 + i} Hz\n")
    return folder


def command(*words, **environment) -> subprocess.Popen:
    """`musekit cache` in a process of its own."""
    # -X faulthandler would hear SIGUSR1 itself; nothing of pytest's is inherited
    return subprocess.Popen(
        [sys.executable, "-m", "musekit", "cache", "--preset", "smoke", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def test_ranks_that_never_talk_share_the_work_and_cut_the_clips_once(tmp_path):
    """As `srun` or an array starts them: both make the clips, one of them waits; whoever is last sums up."""
    folder, out = music(tmp_path / "music", SHARD + 6), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "spectra", "--workers", "1")
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "1"}
    ranks = [command(*words, SLURM_ARRAY_TASK_ID=str(i), **array) for i in range(2)]
    told = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    shards = Shards(out / "spectra")
    assert shards.manifest["complete"] and len(shards) == SHARD + 6 == len(read_clips(out))
    assert any("70 rows, 0 set aside" in text for text in told)
    rows = {clip["title"]: shards.row(clip["id"]) for clip in read_clips(out)[:3] + read_clips(out)[-3:]}
    assert len({float(row.float().sum()) for row in rows.values()}) == 6


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number, workers", [(signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_a_signal_stops_after_the_shard_in_hand_with_75_and_the_same_command_goes_on(tmp_path, number, workers):
    n = 8  # shards, so that a busy machine's signal comes before the last is in hand
    folder, out = music(tmp_path / "music", n * SHARD, 1.0), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "spectra", "--workers", workers)
    job = command(*words)
    began = time.monotonic()
    while not list(out.glob("spectra/.*part")) and not list(out.glob("spectra/0*.json")) and job.poll() is None:
        assert time.monotonic() - began < 100
        time.sleep(0.002)
    job.send_signal(number)
    told = job.communicate(timeout=100)[0]
    assert job.returncode == 75 and "run the same command again" in told and "Traceback" not in told, told
    done = shard_times(out / "spectra")
    manifest = json.loads((out / "spectra" / "manifest.json").read_text())
    assert 1 <= len(done) == len(manifest["shards"]) < n and not manifest["complete"] and not list(out.rglob("*.part"))
    again = command(*words)
    assert f"{n * SHARD} rows" in again.communicate(timeout=100)[0] and again.returncode == 0
    assert {k: v for k, v in shard_times(out / "spectra").items() if k in done} == done


def test_a_signal_in_this_process_is_looked_at_between_shards(tmp_path):
    def compute(ids):
        os.kill(os.getpid(), signal.SIGTERM)
        return numbers(ids)

    with distributed.signals() as stop, pytest.raises(distributed.Stopped) as caught:
        build_shards(tmp_path, IDS, "maker", compute, stop=stop)
    assert caught.value.code == 75 and len(Shards(tmp_path)) == SHARD


LATE = """
import os, signal, sys
from musekit import distributed

class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), term=signal.SIGTERM, usr1=signal.SIGUSR1):
        kill(me, usr1), kill(me, term)  # while Python takes itself apart, its own handlers gone

late = Late()
with distributed.signals() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
    raise distributed.Stopped(stop())
"""


def test_a_second_signal_while_a_stopped_process_ends_does_not_change_its_exit_code():
    """A job script repeats its signal, and torchrun sends its own, to those that end last."""
    assert subprocess.run([sys.executable, "-c", LATE]).returncode == 75


class Late:
    """Signals its process while Python takes itself apart."""

    def __init__(self, number):
        self.number, self.kill, self.me = number, os.kill, os.getpid()

    def __del__(self):
        self.kill(self.me, self.number)


def ends_late(folder: Path, number: int, stop) -> None:
    """A worker's whole work; then the signal that ends the others comes."""
    (folder / str(number)).touch()
    sys.modules[__name__].late = Late(number)


def test_a_signal_to_a_worker_that_has_finished_is_no_death(tmp_path):
    each = [(tmp_path, int(number)) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    workers.run(ends_late, each, lambda: 0, "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(str(number) for _, number in each)


# ---------------------------------------------------------------- sound that changes


@pytest.fixture
def few(tmp_path):
    """(cache of three clips with spectra, a function that makes them again and tells whether anything was made)."""
    records = write_clips(tmp_path, "rrv")
    precompute("spectra", tmp_path, smoke(), show=False)

    def again(**how) -> bool:
        before = shard_times(tmp_path / "spectra")
        manifest = precompute("spectra", tmp_path, smoke(), show=False, **how)
        assert manifest["complete"]
        return shard_times(tmp_path / "spectra") != before

    return tmp_path, records, again


def test_sound_that_was_rendered_again_under_the_same_name_is_noticed(few):
    cache, records, again = few
    assert not again()
    before = Shards(cache / "spectra").row(records[1]["id"])
    soundfile.write(cache / records[1]["path"], sinusoids([300], 2.0).T, SAMPLE_RATE, subtype="PCM_16")
    assert again() and not again()
    assert not torch.equal(Shards(cache / "spectra").row(records[1]["id"]), before)
    os.utime(cache / records[1]["path"])  # touched or copied: the bytes decide
    assert not again()
    assert "sources" not in json.loads((cache / "spectra" / "manifest.json").read_text())["shards"][0]


def test_sound_that_is_gone_keeps_its_rows_and_sound_that_comes_is_read(few):
    cache, records, again = few
    data = (cache / records[0]["path"]).read_bytes()
    (cache / records[0]["path"]).unlink()  # to save room, once everything is cached
    assert not again() and len(Shards(cache / "spectra")) == 3
    soundfile.write(cache / records[1]["path"], sinusoids([300], 2.0).T, SAMPLE_RATE)
    assert again() and records[0]["id"] in Shards(cache / "spectra").manifest["set_aside"]
    (cache / records[0]["path"]).write_bytes(data)
    assert again() and len(Shards(cache / "spectra")) == 3


def test_another_stretch_of_the_same_file_is_another_sound(few):
    cache, records, again = few
    records[2] |= {"start": 0.5, "seconds": 1.5}
    (cache / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert again() and not again()
    assert Shards(cache / "spectra").row_length(records[2]["id"]) == -(-66150 // 2048)


def test_shards_from_before_sources_were_kept_stay_valid(few):
    """The caches that exist: no sources in the sidecars. They are judged by time, and nothing is written."""
    cache, records, again = few
    sidecar = cache / "spectra" / "00000.json"
    old = {k: v for k, v in json.loads(sidecar.read_text()).items() if k not in ("sources", "bytes")}
    sidecar.write_text(json.dumps(old))
    assert not again() and json.loads(sidecar.read_text()) == old
    later = time.time() + 10
    os.utime(cache / records[0]["path"], (later, later))
    assert again() and "sources" in json.loads(sidecar.read_text())


def test_latents_are_not_made_from_spectra_of_sound_that_has_changed(few, tiny):
    cache, records, _ = few
    soundfile.write(cache / records[0]["path"], sinusoids([300], 2.0).T, SAMPLE_RATE)
    precompute("latents", cache, smoke(), tiny.weights, show=False)
    codec = pretrained.load_part(tiny.weights, "codec")[0]
    audio = torch.from_numpy(soundfile.read(cache / records[0]["path"], dtype="float32")[0].T)[None]
    row = Shards(cache / "latents").row(records[0]["id"]).float()
    torch.testing.assert_close(row, codec.encode(audio)[0].T, atol=2e-2, rtol=2e-2)


def test_a_digest_is_only_taken_where_size_or_time_differ(few, monkeypatch):
    cache, records, again = few
    monkeypatch.setattr("musekit.cache.sources.digest", lambda *a: pytest.fail("read every file"))
    assert not again()
    assert Sources(cache, {r["id"]: r for r in records}).unchanged([], {}, 0) == {}


# ---------------------------------------------------------------- who made it


def test_caches_that_exist_keep_their_makers():
    """The names of the corpus's shards, which hours of work made: they must not change with new fields or presets."""
    assert maker("spectra", mini()) == "spectra 65070cf112e5"
    assert maker("views", mini()) == maker("views", smoke()) == "views 753a35a76454"
    assert named(TextConfig()) == "52fabfbc8551"
    changed = [
        CodecConfig(linear_bins=512),
        CodecConfig(high_bands=32),
        CodecConfig(sample_rate=48000),
        CodecConfig(n_fft=2048),
    ]
    makers = {maker("spectra", MuseConfig("x", codec=c)) for c in (CodecConfig(), *changed)}
    assert len(makers) == 5
    assert maker("views", MuseConfig("x", embedder=EmbedderConfig(bands=96))) != "views 753a35a76454"
    assert named(TextConfig(kind="t5")) != named(TextConfig())  # a field that came later, where it says something


def test_public_models_need_no_front_end_and_no_weights(tmp_path):
    write_clips(tmp_path, "r")
    with pytest.raises(MuseError, match="has no spectra: .* leave it out"):
        precompute("spectra", tmp_path, paper(), show=False)


def test_what_other_weights_made_is_not_made_again_unasked(few, tiny, tmp_path):
    cache, _, _ = few
    precompute("latents", cache, smoke(), tiny.weights, show=False)
    other = shutil.copytree(tiny.weights, tmp_path / "other")
    torch.manual_seed(3)
    pretrained.save_part(other, "codec", pretrained.build("codec", smoke()), smoke())
    before = shard_times(cache / "latents")
    with pytest.raises(
        MuseError, match=r"latents was made by other weights .* --remake to make its 3 rows again"
    ) as caught:
        precompute("latents", cache, smoke(), other, show=False, remake=False)
    assert "\n" not in str(caught.value) and shard_times(cache / "latents") == before
    precompute("latents", cache, smoke(), other, show=False, remake=True)
    assert shard_times(cache / "latents") != before


def test_rows_of_another_maker_are_told_of_no_more_once_work_has_begun(tmp_path):
    build_shards(tmp_path, IDS, "old", numbers)

    def dies(ids):
        assert json.loads((tmp_path / "manifest.json").read_text())["rows"] == 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards(tmp_path, IDS, "new", dies)
    assert len(Shards(tmp_path)) == 0


def test_an_encoder_that_fails_ends_the_run_and_blames_no_clip():
    clips = {i: {} for i in ("a", "b")}

    def failing(x):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    with pytest.raises(MuseError, match="failed at the clip a: RuntimeError: mat1 and mat2") as caught:
        each_clip(clips, lambda clip: torch.zeros(2, 9), failing)(["a", "b"])
    assert "\n" not in str(caught.value)
    shapes = iter([torch.zeros(1, 4, 8), torch.zeros(1, 4, 9)])
    with pytest.raises(MuseError, match="different shapes"):
        each_clip(clips, lambda clip: torch.zeros(2, 9), lambda x: next(shapes))(["a", "b"])
    values = iter([torch.full((1, 4, 8), torch.nan), torch.ones(1, 4, 8)])
    for threads in (0, 3):
        values = iter([torch.full((1, 4, 8), torch.nan), torch.ones(1, 4, 8)])
        rows, aside = each_clip(clips, lambda clip: torch.zeros(2, 9), lambda x, v=values: next(v), threads)(["a", "b"])
        assert aside == {"a": "the encoder gave no finite numbers"} and rows["x"].shape == (1, 4, 8)


# ---------------------------------------------------------------- flipped bytes


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("at", [3, 40, -3])  # the header's length, the header, the data
def test_a_shard_with_flipped_bytes_is_refused_by_name_or_skipped_and_counted(tmp_path, at):
    build_shards(tmp_path, IDS, "maker", numbers)
    flip(tmp_path / "00001.safetensors", at)
    shards = Shards(tmp_path)
    assert shards.row(IDS[0])[0, 0] == 0  # another shard
    with pytest.raises(MuseError, match=r"00001\.safetensors differs from its hash"):
        shards.row(IDS[SHARD])
    told = []
    shards = Shards(tmp_path, damaged="skip", warn=told.append)
    assert shards.skipped == {"00001.safetensors": SHARD} and f"{SHARD} rows left out: 00001.safetensors" in told[0]
    assert set(shards.index) == {*IDS[:SHARD], *IDS[2 * SHARD :]}
    assert [shards.row(i)[0, 0].item() for i in shards.index] == [float(i[-3:]) for i in shards.index]
    made = []
    build_shards(tmp_path, IDS, "maker", lambda ids: made.append(ids[0]) or numbers(ids))
    assert made == []  # looking at every byte of every shard is asked for
    build_shards(tmp_path, IDS, "maker", lambda ids: made.append(ids[0]) or numbers(ids), verify=True)
    assert made == [IDS[SHARD]] and Shards(tmp_path).row(IDS[SHARD])[0, 0] == SHARD


def test_a_shard_is_hashed_once_in_a_process(tmp_path, monkeypatch):
    build_shards(tmp_path, IDS, "maker", numbers)
    hashed = []
    monkeypatch.setattr(cache_module, "sha256", lambda path: hashed.append(path.name) or real(path))
    shards = Shards(tmp_path)
    assert hashed == []
    for i in (*IDS[:20], *IDS[:20], IDS[-1]):
        shards.row(i)
    assert hashed == ["00000.safetensors", "00002.safetensors"]


real = cache_module.sha256


def test_no_flipped_byte_of_a_manifest_or_sidecar_changes_a_row(tmp_path):
    """Any flip is refused, or leaves every row under its own id; the same command mends it."""
    build_shards(tmp_path, IDS, "maker", numbers)
    whole = (tmp_path / "manifest.json").read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(300):
        flip(tmp_path / "manifest.json", draw.randrange(len(whole)), draw.randrange(7))
        try:
            shards = Shards(tmp_path)
            for key in draw.sample(sorted(shards.index), 5):
                assert shards.row(key)[0, 0] == float(key[-3:])
            assert set(shards.index) == set(IDS)
        except MuseError as error:
            refused += 1
            assert "\n" not in str(error) and ("musekit cache" in str(error))
        (tmp_path / "manifest.json").write_bytes(whole)
    assert refused > 200
    sidecar = tmp_path / "00001.json"
    first = sidecar.read_bytes()
    for _ in range(40):
        flip(sidecar, draw.randrange(len(first)), draw.randrange(7))
        build_shards(tmp_path, IDS, "maker", numbers)
        shards = Shards(tmp_path)
        assert set(shards.index) == set(IDS)
        for key in (IDS[SHARD], IDS[SHARD + 7]):
            try:
                assert shards.row(key)[0, 0] == float(key[-3:])
            except MuseError:  # the flip was in the hash: the shard is named, deleted, made again
                (tmp_path / "00001.safetensors").unlink()
                build_shards(tmp_path, IDS, "maker", numbers)
        sidecar.write_bytes(first)


def test_training_never_sees_a_damaged_shard(tiny, tmp_path, monkeypatch):
    """Refused by name before the first step, or left out with every clip and caption that needs it."""
    monkeypatch.setattr(cache_module, "SHARD", 4)
    monkeypatch.setattr(precompute_module, "SHARD", 4)
    for name in ("clips.jsonl", "clips"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    for kind in ("tokens", "latents", "embeddings"):
        precompute(kind, tmp_path, tiny.config, tiny.weights, show=False)
    whole = Stage2Data(tmp_path, "train", tiny.config, damaged="skip")
    assert not whole.shards.skipped and len(whole) == 13
    flip(tmp_path / "latents" / "00000.safetensors", -9)
    with pytest.raises(MuseError, match=r"latents/00000\.safetensors differs .* --train\.damaged skip"):
        Stage2Data(tmp_path, "train", tiny.config)
    told = Stage2Data(tmp_path, "train", tiny.config, damaged="skip")
    assert [c["id"] for c in told.clips] == [c["id"] for c in whole.clips if c["id"] > "tiny-03"]
    flip(tmp_path / "tokens" / "00000.safetensors", -9)
    with pytest.raises(MuseError, match=r"tokens/00000\.safetensors differs"):
        dataset = Stage1Data(tmp_path, "train", tiny.config)
        for i in range(len(dataset)):
            for counter in range(9):
                dataset.sample(i, flow.Draws(0, counter), flow.Draws(0, 0))
    dataset = Stage1Data(tmp_path, "train", tiny.config, damaged="skip")
    lost = json.loads((tmp_path / "tokens" / "00000.json").read_text())["ids"]
    assert dataset.tokens.skipped == {"00000.safetensors": 4} and len(lost) == 4
    said = {caption_id(c["text"]) for clip in dataset.clips for c in clip["captions"]}
    assert said and not said & set(lost)
    for i in range(len(dataset)):
        dataset.sample(i, flow.Draws(0, i), flow.Draws(0, 0))


@pytest.mark.parametrize(
    "how, said", [([], "00000.safetensors differs"), (["--train.damaged", "skip"], "holds no clip")]
)
def test_a_damaged_cache_ends_the_command_before_the_first_step(tiny, tmp_path, capsys, how, said):
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    flip(cache / "embeddings" / "00000.safetensors", 400)
    with pytest.raises(SystemExit) as end:
        cli.main(
            ["train", "stage1", "--preset", "smoke", "--cache", str(cache), "--run-folder", str(tmp_path / "run"), *how]
        )
    err = capsys.readouterr().err
    assert end.value.code == 2 and said in err and err.count("\n") == 1 and not list(tmp_path.rglob("checkpoint*"))


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data", "empty"], "holds no data set that is known. Looked for musicbench: MusicBench_train.json"),
        (["--corpus", "musicbench"], "needs --data FOLDER"),
        (["--corpus", "musicbench", "--data", "none"], "no folder at none"),
        (["--corpus", "muscbench", "--data", "empty"], "did you mean 'musicbench'?"),
        (["--data", "empty", "--seconds", "0.1"], "clips last from 1 to 600 s"),
        (["--n", "0"], "--n must be 1 or more, not 0"),
        (["--workers", "0"], "--workers must be 1 or more, not 0"),
        (["--seed", "-1", "--kinds", "plan"], "--seed must be 0 or more, not -1"),
        (["--corpus", "nothing-here", "--kinds", "tokens"], "clips.jsonl is missing"),
    ],
)
def test_what_cannot_be_cached_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["cache", *words])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and said in err and err.count("\n") == 1 and err.startswith("musekit: ")


def test_where_a_cache_goes(tmp_path, monkeypatch):
    from musekit.config import home

    (tmp_path / "my music").mkdir()
    monkeypatch.chdir(tmp_path / "my music")
    for corpus, data, name in [
        (None, None, "scores"), ("musicbench", Path("/x/y"), "musicbench"), (None, tmp_path / "my music", "my music"),
        ("some/folder", None, "folder"), (".", None, "my music"), ("../my music/..", None, tmp_path.name),
    ]:  # fmt: skip
        assert cli.Cache(corpus=corpus, data=data).folder() == home() / "caches" / name
    assert cli.Cache(out=tmp_path).folder() == tmp_path
