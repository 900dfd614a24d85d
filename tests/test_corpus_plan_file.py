"""The plan's file: the same clips to the bit, without music21; what is damaged or too short is said and made anew."""

import json
import lzma
import os
import subprocess
import sys
from itertools import islice

import pytest

from musekit import distributed
from musekit.config import MuseError
from musekit.corpus import clips, families, plan, plan_file

ONLY = ["bach/bwv25", "bach/bwv26"]
N = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A plan file of six clips beside the parsed scores."""
    out = tmp_path_factory.mktemp("plan")
    return out, plan_file.write_plan(out, N, 1, progress=False, only=ONLY)


def test_the_file_holds_the_plan_to_the_bit(written):
    out, path = written
    scores, aside = families.catalogue(out, 1, ONLY, progress=False)
    told, each = plan_file.read_plan(path)
    rows = list(each)
    made = list(islice(plan.clips(scores, 0), N))
    assert told == aside and rows == made
    assert json.dumps(rows) == json.dumps(made)  # the fields' order too: records are written as they are


def test_a_machine_without_music21_renders_the_same_clips(written, tmp_path):
    out, path = written
    plain = tmp_path / "plain"
    (plain / "scores").mkdir(parents=True)
    for parsed in (out / "scores").iterdir():
        os.link(parsed, plain / "scores" / parsed.name)
    from_scores = clips.build_clips(plain, n=2, workers=1, progress=False, only=ONLY)
    bare = tmp_path / "bare"
    bare.mkdir()
    os.link(path, bare / path.name)
    # the renderers are processes of their own, which take their refusal of music21 from the folder on their path
    refusal = tmp_path / "refusal"
    refusal.mkdir()
    (refusal / "music21.py").write_text("raise ImportError('no music21 here')\n")
    code = (
        "import sys; from pathlib import Path; from musekit.corpus.clips import build_clips\n"
        "if __name__ == '__main__':\n"
        f"    build_clips(Path({str(bare)!r}), n=2, workers=1, progress=False, only={ONLY!r})\n"
    )
    (tmp_path / "render.py").write_text(code)
    paths = os.pathsep.join([str(refusal), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, tmp_path / "render.py"], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert (bare / "clips.jsonl").read_bytes() == (plain / "clips.jsonl").read_bytes()
    assert (bare / "set_aside.jsonl").read_bytes() == (plain / "set_aside.jsonl").read_bytes()
    for record in from_scores:
        assert (bare / record["path"]).read_bytes() == (plain / record["path"]).read_bytes()
    assert not (bare / "scores").exists()


def spoilt(path, how: str) -> None:
    """Cuts, changes or shortens a plan file."""
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif how == "changed":
        path.write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    else:
        path.write_bytes(lzma.compress(b"\n".join(lzma.decompress(data).split(b"\n")[:-2]) + b"\n"))


@pytest.mark.parametrize("how", ["cut", "changed", "a line short"])
def test_a_damaged_file_is_said_and_the_scores_are_read(written, tmp_path, capsys, how):
    out, path = written
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    spoilt(copy, how)
    (tmp_path / "scores").symlink_to(out / "scores")
    _, each = plan_file.planned(tmp_path, N, 1, 0, ONLY, False)
    assert [record["id"] for record, _, _ in islice(each, N)] == [r["id"] for r, _, _ in plan_file.read_plan(path)[1]]
    assert "is damaged" in capsys.readouterr().out
    assert plan_file.write_plan(tmp_path, N, 1, progress=False, only=ONLY).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "n, seed, only, wrong",
    [(N, 0, ONLY, ""), (2, 0, ONLY, ""), (N + 1, 0, ONLY, "holds 6"), (N, 1, ONLY, "seed 0"), (N, 0, None, "other")],
)
def test_a_file_serves_its_own_seed_and_scores_and_no_more_clips_than_it_has(written, n, seed, only, wrong):
    found = plan_file.fault(written[1], n, seed, only)
    assert wrong in found and bool(wrong) == bool(found)


def test_no_file_is_no_fault(tmp_path):
    assert plan_file.fault(tmp_path / plan_file.NAME, 1, 0, None) is None


def test_a_signal_leaves_no_plan(written, tmp_path):
    (tmp_path / "scores").symlink_to(written[0] / "scores")
    with pytest.raises(distributed.Stopped):
        plan_file.write_plan(tmp_path, N, 1, progress=False, only=ONLY, stop=lambda: 75)
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]


def test_the_command_writes_what_rendering_reads(written, tmp_path, monkeypatch, capsys):
    from musekit import cli
    from musekit.corpus import repertoire

    monkeypatch.setattr(families, "sources", lambda only: repertoire.sources(only or ONLY))
    (tmp_path / "scores").symlink_to(written[0] / "scores")
    assert cli.main(["cache", "--kinds", "plan", "--n", "3", "--out", str(tmp_path)]) in (0, None)
    assert "plan: 3 clips, seed 0" in capsys.readouterr().out
    first = json.loads(lzma.open(tmp_path / plan_file.NAME, "rt").readline())
    assert {k: first[k] for k in ("plan", "seed", "n", "only")} == {"plan": 1, "seed": 0, "n": 3, "only": None}


def test_the_plan_is_of_scores_alone(tmp_path):
    from musekit.cache import build

    with pytest.raises(MuseError, match="leave it out"):
        build.make_plan(None, "folder", tmp_path, lambda: 0)
