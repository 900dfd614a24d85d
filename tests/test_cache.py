"""The cache: shards survive kills, damage is named, changed makers recompute, bad audio is set aside."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from fixtures import SAMPLE_RATE, sinusoids, write_clips

from musekit import cache as cache_module
from musekit import pretrained
from musekit.cache import SHARD, Shards, as_half, build_shards, caption_id, plan_hash, read_clips
from musekit.cache.build import build_cache
from musekit.cache.precompute import precompute, read_clip
from musekit.cli import Cache
from musekit import codec
from musekit.config import MuseError
from musekit.encoders import features

IDS = [f"clip-{i:03d}" for i in range(2 * SHARD + 10)]


class Compute:
    """Rows that tell their id; remembers what it was asked for."""

    def __init__(self, factor: float = 1.0):
        self.factor, self.asked = factor, []

    def __call__(self, ids):
        self.asked += ids
        aside = {i: "BadAudio: silent" for i in ids if i.endswith("7")}
        numbers = [float(i[-3:]) for i in ids if i not in aside]
        return {"x": self.factor * torch.tensor(numbers)[:, None, None].expand(-1, 4, 2)}, aside


def kept(ids=IDS):
    return [i for i in ids if not i.endswith("7")]


# ---------------------------------------------------------------- shards


def test_rows_come_back_by_id(tmp_path):
    manifest = build_shards(tmp_path / "x", reversed(IDS), "maker", Compute())
    shards = Shards(tmp_path / "x")
    assert manifest["complete"] and manifest["rows"] == len(shards) == len(kept())
    assert manifest["set_aside"]["clip-007"] == "BadAudio: silent"
    assert "clip-008" in shards and "clip-007" not in shards
    for i in kept():
        assert shards.row(i).tolist() == [[float(i[-3:])] * 2] * 4
    assert shards.row("clip-008", start=1, stop=3).shape == (2, 2)
    assert shards.row_length("clip-008") == 4
    assert shards.all(["clip-100", "clip-002"])[:, 0, 0].tolist() == [100.0, 2.0]
    assert sorted(p.name for p in (tmp_path / "x").glob("*.safetensors")) == [f"0000{i}.safetensors" for i in range(3)]


def test_the_same_command_again_computes_nothing(tmp_path):
    first = build_shards(tmp_path, IDS, "maker", Compute())
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("0*")}
    compute = Compute()
    assert build_shards(tmp_path, IDS, "maker", compute) == first
    assert compute.asked == [] and {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("0*")} == before


def test_a_changed_maker_recomputes_everything_and_changed_ids_their_shards(tmp_path):
    build_shards(tmp_path, IDS, "maker 1", Compute())
    compute = Compute(2.0)
    manifest = build_shards(tmp_path, IDS, "maker 2", compute)
    assert compute.asked == IDS and manifest["maker"] == "maker 2"
    assert Shards(tmp_path).row("clip-003")[0, 0] == 6.0
    compute = Compute(2.0)
    build_shards(tmp_path, [*IDS, "clip-999"], "maker 2", compute)  # sorts last: only the last shard changes
    assert compute.asked == [*IDS[2 * SHARD :], "clip-999"]
    build_shards(tmp_path, IDS[:10], "maker 2", Compute(2.0))
    assert [p.name for p in sorted(tmp_path.glob("0*"))] == ["00000.json", "00000.safetensors"]
    assert len(Shards(tmp_path)) == len(kept(IDS[:10]))


def test_a_half_changed_folder_shows_only_its_own_maker(tmp_path):
    """After a kill between two makers, rows of the old one are not mixed with the new."""
    build_shards(tmp_path, IDS, "maker 1", Compute())
    build_shards(tmp_path, IDS, "maker 2", Compute(2.0), rank=0, world=3)
    shards = Shards(tmp_path)
    assert not shards.manifest["complete"] and len(shards) == len(kept(IDS[:SHARD]))
    assert shards.row("clip-003")[0, 0] == 6.0


def test_ranks_share_the_work(tmp_path):
    for world in (2, 3, 5):
        folder, computes = tmp_path / str(world), [Compute() for _ in range(world)]
        for rank, compute in enumerate(computes):
            manifest = build_shards(folder, IDS, "maker", compute, rank=rank, world=world)
        assert manifest["complete"] and sorted(i for c in computes for i in c.asked) == IDS
        assert [Shards(folder).row(i)[0, 0].item() for i in kept()] == [float(i[-3:]) for i in kept()]


SLOW = """
import sys, time, torch
from musekit.cache import build_shards, SHARD

def compute(ids):
    print("begin", ids[0], flush=True)
    time.sleep(0.2)
    return {"x": torch.tensor([float(i[-3:]) for i in ids])[:, None, None].expand(-1, 4, 2)}, {}

ids = [f"clip-{i:03d}" for i in range(6 * SHARD)]
build_shards(sys.argv[1], ids, "maker", compute)
"""


def test_a_kill_in_the_middle_loses_only_the_shard_in_hand(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SLOW, tmp_path], stdout=subprocess.PIPE, text=True) as worker:
        begun = [worker.stdout.readline().split()[1] for _ in range(4)]
        worker.kill()
    assert begun == [f"clip-{SHARD * i:03d}" for i in range(4)]
    finished = sorted(tmp_path.glob("0*.json"))
    assert len(finished) == 3
    with pytest.raises(MuseError, match="no whole manifest; run `musekit cache`"):
        Shards(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("0000[012].*")}
    ids, compute = [f"clip-{i:03d}" for i in range(6 * SHARD)], Compute()
    build_shards(tmp_path, ids, "maker", compute)
    assert compute.asked == ids[3 * SHARD :]
    assert before == {p.name: p.read_bytes() for p in tmp_path.glob("0000[012].*")}
    shards = Shards(tmp_path)
    assert [shards.row(i)[0, 0].item() for i in ids[: 3 * SHARD]] == [float(n) for n in range(3 * SHARD)]


@pytest.mark.parametrize("left", ["no record", "record cut short", "record of another plan", "record empty"])
def test_what_a_kill_can_leave_behind_is_made_again(tmp_path, left):
    build_shards(tmp_path, IDS, "maker", Compute())
    sidecar = tmp_path / "00001.json"
    if left == "no record":
        sidecar.unlink()
    elif left == "record cut short":
        sidecar.write_text(sidecar.read_text()[:40])
    elif left == "record empty":
        sidecar.write_text("")
    else:
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "plan": plan_hash(IDS, "maker")}))
    (tmp_path / ".00001.safetensors.123.part").write_bytes(b"half")
    compute = Compute()
    manifest = build_shards(tmp_path, IDS, "maker", compute)
    assert compute.asked == IDS[SHARD : 2 * SHARD] and manifest["complete"]
    assert Shards(tmp_path).row("clip-070")[0, 0] == 70


@pytest.mark.parametrize("how", ["flipped", "truncated", "gone"])
def test_a_damaged_shard_is_named_and_mended(tmp_path, how):
    build_shards(tmp_path, IDS, "maker", Compute())
    path = tmp_path / "00001.safetensors"
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        data[-3] ^= 1
        path.write_bytes(bytes(data if how == "flipped" else data[:-100]))
    shards = Shards(tmp_path)
    assert shards.row("clip-003")[0, 0] == 3  # another shard
    with pytest.raises(MuseError, match=r"00001\.safetensors .*delete it and run `musekit cache` again"):
        shards.row("clip-070")
    path.unlink(missing_ok=True)  # as it says
    compute = Compute()
    build_shards(tmp_path, IDS, "maker", compute)
    assert compute.asked == IDS[SHARD : 2 * SHARD]
    assert Shards(tmp_path).row("clip-070")[0, 0] == 70


@pytest.mark.parametrize("text", [None, "", "{", '{"shards": '])
def test_a_missing_or_damaged_manifest_says_what_to_do(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(MuseError, match="no whole manifest; run `musekit cache`"):
        Shards(tmp_path)


def test_an_unknown_id_says_what_to_do(tmp_path):
    build_shards(tmp_path, IDS[:3], "maker", Compute())
    with pytest.raises(MuseError, match="'nothing' is not in"):
        Shards(tmp_path).row("nothing")


def test_a_cache_without_clips_says_what_to_do(tmp_path):
    with pytest.raises(MuseError, match=r"clips\.jsonl is missing; make the cache first"):
        read_clips(tmp_path)


# ---------------------------------------------------------------- what is computed


def test_the_kinds_hold_what_their_makers_give(tiny, minilm):
    """Each kind's rows against the function that makes them, clip by clip, to half precision."""
    clips = read_clips(tiny.cache)
    codec = pretrained.load_part(tiny.weights, "codec")[0]
    shards = {kind: Shards(tiny.cache / kind) for kind in ("spectra", "views", "latents", "embeddings", "tokens")}
    assert all(s.manifest["complete"] and not s.manifest["set_aside"] for s in shards.values())
    for clip in clips[2:4]:
        audio, rate = soundfile.read(tiny.cache / clip["path"], dtype="float32")
        audio = torch.from_numpy(audio.T)[None]
        assert rate == SAMPLE_RATE
        frames = -(-audio.shape[-1] // 2048)
        expected = {
            "spectra": codec.compress(tiny.config.codec, audio)[0],
            "views": features(tiny.config.embedder, audio, rate)[0],
            "latents": codec.encode(audio)[0].T,
        }
        for kind, rows in expected.items():
            assert shards[kind].row_length(clip["id"]) == frames == len(rows)
            got = shards[kind].row(clip["id"], stop=frames)
            assert got.dtype == torch.float16
            torch.testing.assert_close(got.float(), rows.half().float(), atol=2e-3, rtol=2e-3)
        assert not shards["spectra"].row(clip["id"])[frames:].any()
        embedding = shards["embeddings"].row(clip["id"]).float()
        assert embedding.shape == (1, 512) and embedding.norm().item() == pytest.approx(1, abs=2e-3)
        for caption in clip["captions"]:
            states, mask = minilm([caption["text"]])
            key = caption_id(caption["text"])
            torch.testing.assert_close(shards["tokens"].row(key), as_half(states[0]), atol=2e-3, rtol=2e-3)
            assert torch.equal(shards["tokens"].row(key, "mask"), mask[0])


def test_makers_are_named_by_the_weights_they_used(tiny, tmp_path):
    manifest = json.loads((tiny.cache / "latents" / "manifest.json").read_text())
    digest = json.loads((tiny.weights / "weights.json").read_text())["codec"]
    assert manifest["maker"] == f"latents {digest[:16]}"
    cache, weights = tmp_path / "cache", tmp_path / "weights"
    shutil.copytree(tiny.cache, cache)
    shutil.copytree(tiny.weights, weights)
    torch.manual_seed(9)
    pretrained.save_part(weights, "codec", pretrained.build("codec", tiny.config), tiny.config)
    before = Shards(cache / "latents").row("tiny-00")
    again = precompute("latents", cache, tiny.config, weights, show=False)
    assert again["maker"] != manifest["maker"] and again["complete"]
    assert not torch.equal(Shards(cache / "latents").row("tiny-00"), before)


def test_two_workers_make_what_one_makes(tiny, tmp_path, monkeypatch):
    for name in ("clips.jsonl", "clips"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    manifest = precompute("views", tmp_path, tiny.config, workers=2, show=False)
    one, two = Shards(tiny.cache / "views"), Shards(tmp_path / "views")
    assert manifest["complete"] and two.index.keys() == one.index.keys()
    for clip in one.index:
        torch.testing.assert_close(two.row(clip), one.row(clip), atol=2e-3, rtol=2e-3)


def test_bad_audio_is_converted_or_set_aside_and_never_ends_the_run(tiny, tmp_path):
    records = write_clips(tmp_path, "r" * 10)
    paths = {name: tmp_path / r["path"] for name, r in zip(
        ("good", "mono", "slow", "fast", "wav", "empty", "text", "truncated", "nan", "silent"), records
    )}  # fmt: skip
    good = sinusoids([220], 2.0)
    soundfile.write(paths["mono"], good[0], SAMPLE_RATE)
    soundfile.write(paths["slow"], sinusoids([220], 2.0, 8000).T, 8000)
    soundfile.write(paths["fast"], sinusoids([220], 2.0, 192_000).T, 192_000)
    soundfile.write(paths["wav"], good.T, SAMPLE_RATE, format="WAV")  # under a .flac name
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("this is no sound\n" * 100)
    paths["truncated"].write_bytes(paths["good"].read_bytes()[: paths["good"].stat().st_size // 2])
    broken = np.where(np.arange(88200) == 5, np.nan, good[0])
    soundfile.write(paths["nan"], broken, SAMPLE_RATE, subtype="FLOAT", format="WAV")
    soundfile.write(paths["silent"], np.zeros((88200, 2)), SAMPLE_RATE)
    records.append({**records[0], "id": "tiny-99", "path": "clips/ti/gone.flac"})
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))

    names = dict(zip([r["id"] for r in records], [*paths, "gone"]))
    for kind in ("spectra", "embeddings"):
        manifest = precompute(kind, tmp_path, tiny.config, tiny.weights, show=False)
        aside = {names[k]: reason for k, reason in manifest["set_aside"].items()}
        assert aside.keys() == {"empty", "text", "truncated", "nan", "silent", "gone"}
        for name, word in (("empty", "empty"), ("nan", "NaN"), ("silent", "silent"), ("gone", "no such file")):
            assert word in aside[name]
        assert manifest["complete"] and manifest["rows"] == 5
    rows = Shards(tmp_path / "spectra")
    for name in ("mono", "slow", "fast", "wav"):
        key = next(k for k, v in names.items() if v == name)
        assert rows.row_length(key) == 44 and rows.row(key).isfinite().all()


def test_networks_read_the_cached_front_end_and_get_the_same(tiny, tmp_path):
    """Latents from cached spectra, embeddings from cached views: those of the audio, to half precision."""
    for name in ("clips.jsonl", "clips"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    for kind in ("latents", "embeddings"):
        from_audio = precompute(kind, tmp_path, tiny.config, tiny.weights, show=False)
        one, two = Shards(tmp_path / kind), Shards(tiny.cache / kind)
        assert from_audio["maker"] == two.manifest["maker"] and one.index.keys() == two.index.keys()
        for clip in one.index:
            assert one.row_length(clip) == two.row_length(clip)
            a, b = one.row(clip).float(), two.row(clip).float()
            assert (a - b).norm() / a.norm() < 0.02


def test_what_the_front_end_set_aside_keeps_its_reason_and_new_clips_are_read(tiny, tmp_path):
    records = write_clips(tmp_path, "rrr")
    (tmp_path / records[1]["path"]).write_bytes(b"")
    precompute("views", tmp_path, tiny.config, show=False)
    manifest = precompute("embeddings", tmp_path, tiny.config, tiny.weights, show=False)
    assert manifest["rows"] == 2 and manifest["set_aside"] == {"tiny-01": "BadAudio: empty file"}
    write_clips(tmp_path, "rrrr")  # one clip more than there are views, and the bad one mended
    manifest = precompute("embeddings", tmp_path, tiny.config, tiny.weights, show=False)
    assert manifest["rows"] == 4 and not manifest["set_aside"]


def test_a_damaged_front_end_stops_the_run_and_sets_no_clip_aside(tiny, tmp_path):
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    shutil.rmtree(cache / "latents")
    path = cache / "spectra" / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MuseError, match=r"spectra/00000\.safetensors .*delete it"):
        precompute("latents", cache, tiny.config, tiny.weights, show=False)
    assert not list((cache / "latents").glob("0*"))


def test_a_shard_of_nothing_but_bad_audio(tiny, tmp_path):
    for record in write_clips(tmp_path, "rr"):
        (tmp_path / record["path"]).write_bytes(b"x")
    manifest = precompute("spectra", tmp_path, tiny.config, show=False)
    assert manifest["rows"] == 0 and len(manifest["set_aside"]) == 2
    assert len(Shards(tmp_path / "spectra")) == 0


def test_a_clip_is_read_as_it_was_written(tiny):
    clip = read_clips(tiny.cache)[0]
    audio, _ = soundfile.read(tiny.cache / clip["path"], dtype="float32")
    assert torch.equal(read_clip(tiny.cache, clip), torch.from_numpy(audio.T))


def test_mistakes_are_one_clear_line(tiny):
    with pytest.raises(MuseError, match="did you mean 'latents'"):
        precompute("latent", tiny.cache, tiny.config)
    with pytest.raises(MuseError, match="needs trained weights; give --weights"):
        precompute("latents", tiny.cache, tiny.config)


def test_a_folder_of_audio_becomes_a_cache(tmp_path, capsys):
    """`musekit cache --corpus FOLDER`, twice: the second time nothing is made again."""
    music = tmp_path / "music"
    music.mkdir()
    for i, f in enumerate((220, 330)):
        soundfile.write(music / f"{i}.wav", sinusoids([f], 3.0).T, SAMPLE_RATE)
        (music / f"{i}.txt").write_text(f"a tone of {f} Hz\n")
    options = Cache(corpus=str(music), out=tmp_path / "cache", kinds=("clips", "spectra"), preset="smoke", workers=1)
    build_cache(options)
    assert "spectra: 2 rows, 0 set aside" in capsys.readouterr().out
    shard = tmp_path / "cache" / "spectra" / "00000.safetensors"
    before = shard.stat().st_mtime_ns
    build_cache(options)
    assert shard.stat().st_mtime_ns == before
    texts = {clip["captions"][0]["text"] for clip in read_clips(tmp_path / "cache")}
    assert texts == {"a tone of 220 Hz", "a tone of 330 Hz"}


def test_hashes_tell_makers_apart():
    assert plan_hash(["a", "b"], "m") != plan_hash(["a", "b"], "n") != plan_hash(["a"], "n")
    assert cache_module.config_hash(1, "a") != cache_module.config_hash("1", "a")
    assert caption_id("a") == caption_id("a") != caption_id("b")
