"""The store: shards survive kills, damage is named, more clips cost only themselves, changed audio is noticed."""

import json
import subprocess
import sys

import pytest
import soundfile
import torch
from fixtures import SAMPLE_RATE, sinusoids, write_clips

from musekit import pretrained
from musekit.cache import SHARD, Shards, build_shards, caption_id, read_clips
from musekit.cache.precompute import maker, named, precompute, read_clip
from musekit.config import MuseError, TextConfig, mini, paper, smoke
from musekit.encoders.mini import features

IDS = [f"clip-{i:03d}" for i in range(2 * SHARD + 10)]
KEPT = [i for i in IDS if not i.endswith("7")]


class Compute:
    """Rows that contain the number of their id; remembers for which ids it was called."""

    def __init__(self, factor: float = 1.0):
        self.factor, self.ids = factor, []

    def __call__(self, ids):
        self.ids += ids
        aside = {i: "BadAudio: silent" for i in ids if i.endswith("7")}
        numbers = [float(i[-3:]) for i in ids if i not in aside]
        return {"x": self.factor * torch.tensor(numbers)[:, None, None].expand(-1, 4, 2)}, aside


def files(folder) -> dict:
    """{name: modification time} of the shards."""
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("[0-9]*")}


def shard_of(folder, key: str):
    """The file with that id's row."""
    return folder / next(
        s["file"] for s in json.loads((folder / "manifest.json").read_text())["shards"] if key in s["ids"]
    )


def test_rows_come_back_by_id_and_the_same_call_computes_nothing(tmp_path):
    manifest = build_shards(tmp_path, reversed(IDS), "maker", Compute())
    shards = Shards(tmp_path)
    assert manifest["complete"] and manifest["rows"] == len(shards) == len(KEPT)
    assert manifest["set_aside"]["clip-007"] == "BadAudio: silent"
    assert "clip-008" in shards and "clip-007" not in shards and list(shards.index) == KEPT
    assert all(shards.row(i).tolist() == [[float(i[-3:])] * 2] * 4 for i in KEPT)
    assert shards.row("clip-008", start=1, stop=3).shape == (2, 2) and shards.row_length("clip-008") == 4
    assert shards.all(["clip-100", "clip-002"])[:, 0, 0].tolist() == [100.0, 2.0]
    before, compute = files(tmp_path), Compute()
    assert build_shards(tmp_path, IDS, "maker", compute, verify=True) == manifest
    assert compute.ids == [] and files(tmp_path) == before
    with pytest.raises(MuseError, match="'nothing' is not in"):
        shards.row("nothing")


def test_more_clips_cost_only_themselves_and_fewer_delete_nothing(tmp_path):
    build_shards(tmp_path, IDS, "maker", Compute())
    before, compute = files(tmp_path), Compute()
    manifest = build_shards(tmp_path, ["clip-+01", *IDS, "clip-999"], "maker", compute)  # one sorts first
    assert compute.ids == ["clip-+01", "clip-999"] and manifest["complete"]
    assert before.items() < files(tmp_path).items()
    manifest = build_shards(tmp_path, IDS[:10], "maker", compute)
    assert manifest["complete"] and len(Shards(tmp_path)) == len(KEPT) + 2 and len(compute.ids) == 2


def test_another_maker_replaces_every_row_and_the_two_are_never_mixed(tmp_path):
    build_shards(tmp_path, IDS, "old", Compute())
    build_shards(tmp_path, IDS, "new", Compute(2.0), share=(0, 3))
    shards = Shards(tmp_path)
    assert not shards.manifest["complete"] and 0 < len(shards) < len(KEPT)
    assert all(shards.row(i)[0, 0] == 2 * float(i[-3:]) for i in shards.index)
    build_shards(tmp_path, IDS, "new", Compute(2.0))
    assert Shards(tmp_path).manifest["complete"] and len(Shards(tmp_path)) == len(KEPT)


def test_ranks_share_the_work_and_another_number_of_ranks_goes_on(tmp_path):
    first = [Compute() for _ in range(4)]
    for rank in range(4):  # the fifth rank never runs
        manifest = build_shards(tmp_path, IDS, "maker", first[rank], share=(rank, 5))
    assert not manifest["complete"]
    again = [Compute() for _ in range(3)]
    for rank in range(3):
        manifest = build_shards(tmp_path, IDS, "maker", again[rank], share=(rank, 3))
    assert manifest["complete"] and sorted(i for c in (*first, *again) for i in c.ids) == IDS
    assert [Shards(tmp_path).row(i)[0, 0].item() for i in KEPT] == [float(i[-3:]) for i in KEPT]


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


def test_a_kill_in_the_middle_loses_only_the_current_shard(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SLOW, tmp_path], stdout=subprocess.PIPE, text=True) as worker:
        begun = [worker.stdout.readline().split()[1] for _ in range(4)]
        worker.kill()
    assert begun == [f"clip-{SHARD * i:03d}" for i in range(4)]
    before = files(tmp_path)
    assert len([name for name in before if name.endswith(".json")]) == 3
    for damaged in (False, True):
        if damaged:
            (tmp_path / "manifest.json").write_text('{"kind": 1}')
        with pytest.raises(MuseError, match="no whole manifest; run `musekit cache`"):
            Shards(tmp_path)
    ids, compute = [f"clip-{i:03d}" for i in range(6 * SHARD)], Compute()
    build_shards(tmp_path, ids, "maker", compute)
    assert compute.ids == ids[3 * SHARD :] and before.items() <= files(tmp_path).items()


@pytest.mark.parametrize("how", ["no sidecar", "half a sidecar", "flipped", "truncated"])
def test_what_a_kill_or_damage_leaves_is_computed_again(tmp_path, how):
    """A reader compares sizes, which costs nothing; `verify` compares hashes."""
    build_shards(tmp_path, IDS, "maker", Compute())
    path = shard_of(tmp_path, "clip-070")
    data, sidecar = bytearray(path.read_bytes()), path.with_suffix(".json")
    lost = json.loads(sidecar.read_text())["ids"]
    (tmp_path / ".00001.safetensors.123.part").write_bytes(b"half")
    if how == "no sidecar":
        sidecar.unlink()
    elif how == "half a sidecar":
        sidecar.write_text(sidecar.read_text()[:40])
    else:
        data[-3] ^= 1
        path.write_bytes(bytes(data if how == "flipped" else data[:-100]))
    if how == "truncated":
        other = next(i for i in KEPT if i not in lost)
        assert Shards(tmp_path).row(other)[0, 0] == float(other[-3:])
        with pytest.raises(MuseError, match=rf"{path.name} is damaged .*; run `musekit cache` again with --verify"):
            Shards(tmp_path).row("clip-070")
    compute = Compute()
    assert build_shards(tmp_path, IDS, "maker", compute, verify=how == "flipped")["complete"]
    assert set(lost) <= set(compute.ids) and len(compute.ids) <= SHARD
    assert Shards(tmp_path).row("clip-070")[0, 0] == 70


def test_only_what_the_cache_made_is_removed(tmp_path):
    """Sidecars that name another file, or one of other content, belong to somebody else."""
    build_shards(tmp_path / "kind", IDS, "old", Compute())
    shard = json.loads(next((tmp_path / "kind").glob("[0-9]*.json")).read_text())
    own = {"own.safetensors": "../own.safetensors", "kind/7.safetensors": "7.safetensors", "kind/2024.json": None}
    for n, (name, said) in enumerate(own.items(), 6):
        (tmp_path / name).write_text("{}")
        if said:
            (tmp_path / "kind" / f"{n}.json").write_text(json.dumps(shard | {"file": said}))
    build_shards(tmp_path / "kind", IDS, "new", Compute(2.0))
    assert all((tmp_path / name).read_text() == "{}" for name in own) and len(Shards(tmp_path / "kind")) == len(KEPT)
    assert not any(json.loads(p.read_text())["maker"] == "old" for p in (tmp_path / "kind").glob("0*.json"))


def test_clips_are_read_by_split_and_field_and_a_damaged_line_is_named(tiny, tmp_path):
    with pytest.raises(MuseError, match=r"clips\.jsonl is missing; make the cache first"):
        read_clips(tmp_path)
    every, valid = read_clips(tiny.cache), read_clips(tiny.cache, "valid", ("id", "seconds"))
    assert valid == [{"id": c["id"], "seconds": c["seconds"]} for c in every if c["split"] == "valid"] and valid
    lines = (tiny.cache / "clips.jsonl").read_text().splitlines()
    (tmp_path / "clips.jsonl").write_text("\n".join([*lines[:2], lines[2].replace('"seconds": 2.0', '"seconds": "2"')]))
    with pytest.raises(MuseError, match=r"clips\.jsonl, line 3, .*seconds") as caught:
        read_clips(tmp_path)
    assert "\n" not in str(caught.value)


def test_each_kind_has_the_rows_of_its_network(tiny, minilm):
    """Each kind's rows against the function that computes them, clip by clip, to half precision."""
    clips = read_clips(tiny.cache)
    codec = pretrained.load_part(tiny.weights, "codec")[0]
    shards = {kind: Shards(tiny.cache / kind) for kind in ("views", "latents", "embeddings", "tokens")}
    assert all(s.manifest["complete"] and not s.manifest["set_aside"] for s in shards.values())
    digest = json.loads((tiny.weights / "weights.json").read_text())["codec"]
    assert shards["latents"].manifest["maker"] == f"latents {digest[:16]}"
    for clip in clips[2:4]:
        audio, rate = soundfile.read(tiny.cache / clip["path"], dtype="float32")
        audio = torch.from_numpy(audio.T)[None]
        assert torch.equal(read_clip(tiny.cache, clip), audio[0])
        frames = -(-audio.shape[-1] // 2048)
        expected = {
            "views": features(tiny.config.embedder, audio, rate)[0],
            "latents": codec.encode(audio)[0].T,
        }
        for kind, rows in expected.items():
            assert shards[kind].row_length(clip["id"]) == frames == len(rows)
            row = shards[kind].row(clip["id"], stop=frames)
            assert row.dtype == torch.float16
            torch.testing.assert_close(row.float(), rows.half().float(), atol=2e-3, rtol=2e-3)
        embedding = shards["embeddings"].row(clip["id"]).float()
        assert embedding.shape == (1, 512) and embedding.norm().item() == pytest.approx(1, abs=2e-3)
        for caption in clip["captions"]:
            states, mask = minilm([caption["text"]])
            key = caption_id(caption["text"])
            torch.testing.assert_close(shards["tokens"].row(key), states[0].half(), atol=2e-3, rtol=2e-3)
            assert torch.equal(shards["tokens"].row(key, "mask"), mask[0])


def test_bad_audio_is_set_aside_and_never_ends_the_run(tiny, tmp_path):
    records = write_clips(tmp_path, "rrr")
    good, truncated, gone = (tmp_path / r["path"] for r in records)
    soundfile.write(good, sinusoids([220], 2.0, 192_000).T, 192_000, format="WAV")  # under a .flac name
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    gone.unlink()
    manifest = precompute("embeddings", tmp_path, tiny.config, tiny.weights, show=False)
    assert manifest["set_aside"].keys() == {r["id"] for r in records[1:]}
    assert manifest["set_aside"][records[2]["id"]] == "BadAudio: no such file"
    assert manifest["complete"] and manifest["rows"] == 1
    (tmp_path / "clips.jsonl").write_text(json.dumps(records[2]) + "\n")
    manifest = precompute("views", tmp_path, tiny.config, show=False)  # nothing but bad audio
    assert manifest["complete"] and manifest["rows"] == 0 == len(Shards(tmp_path / "views"))


def test_caches_that_exist_keep_their_makers():
    """The names of shards that took hours to compute must not change with new fields or presets."""
    assert maker("views", mini()) == maker("views", smoke()) == "views 753a35a76454"
    assert named(TextConfig()) == "52fabfbc8551"
    assert named(TextConfig(kind="t5")) != named(TextConfig())  # a later field, when it is not at its default


def test_mistakes_are_one_clear_line(tiny, tmp_path):
    with pytest.raises(MuseError, match="did you mean 'latents'"):
        precompute("latent", tiny.cache, tiny.config)
    with pytest.raises(MuseError, match="needs trained weights; give --weights"):
        precompute("latents", tiny.cache, tiny.config)
    with pytest.raises(MuseError, match="has no views: .* leave it out"):
        precompute("views", tmp_path, paper(), show=False)


def test_changed_audio_and_another_part_of_a_file_are_noticed(tmp_path):
    records, folder = write_clips(tmp_path, "rrv"), tmp_path / "views"
    precompute("views", tmp_path, smoke())

    def again() -> list[str]:
        """Which clips the same call computes."""
        before = files(folder)
        assert precompute("views", tmp_path, smoke())["complete"]
        names = [name for name, time in files(folder).items() if before.get(name) != time]
        new = [json.loads((folder / name).read_text()) for name in names if name.endswith(".json")]
        return [key for shard in new for key in (*shard["ids"], *shard["set_aside"])]

    assert not again()
    key, path = records[1]["id"], tmp_path / records[1]["path"]
    before = Shards(folder).row(key)
    soundfile.write(path, sinusoids([300], 2.0).T, SAMPLE_RATE, subtype="PCM_16")
    assert again() == [key] and not again()
    assert not torch.equal(Shards(folder).row(key), before) and len(Shards(folder)) == 3
    path.unlink()  # deleted to save space once everything is computed
    assert not again()
    records[2] |= {"start": 0.5, "seconds": 1.5}
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert again() == [records[2]["id"]] and not again()
    assert Shards(folder).row_length(records[2]["id"]) == -(-66150 // 2048)
