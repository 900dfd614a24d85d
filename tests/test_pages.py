"""The pages: links lead somewhere, commands parse, tables say what the results say, samples are the files described."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tables
from musekit import pretrained
from musekit.cli import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*tables.PAGES, ROOT / "ARCHITECTURE.md", ROOT / "docs" / "train.md"]
SLURM = {"cache": ["cache"], "stage1": ["train", "stage1"], "stage2": ["train", "stage2"]}
SLURM |= {"generate": ["generate"], "bench": ["bench"], "check": ["info", "--cluster"]}
NAMED = re.compile(r"`((?:musekit|make|python|sbatch|torchrun) [^`]+)`")


def commands(text: str) -> list[str]:
    """Indented command lines, without their comments, and those named in a sentence; not what a table has recorded."""
    text = tables.BLOCK.sub("", text)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0] for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    parts = [part.strip() for line in lines for part in line.split("; ")]
    starts = ("musekit ", "make ", "python ", "sbatch ", "torchrun ")
    return [part for part in parts if part.startswith(starts)] + [" ".join(c.split()) for c in NAMED.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src)=\"([^\"]+)\"", text):
        name, _, anchor = "".join(target).partition("#")
        if name.startswith(("https://", "http://")):
            continue
        place = page.parent / name if name else page
        assert place.exists(), f"{page.name} links to {target}, which is not there"
        heads = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE) if anchor else []
        names = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
        assert not anchor or anchor in names, f"{page.name}: {name} has no heading {anchor}"


CALLS = sorted({call for page in PAGES for call in commands(page.read_text())})


@pytest.mark.parametrize("call", CALLS)
def test_every_command_parses(call: str):
    """musekit's by its own parser, which runs nothing; make's targets and variables, and scripts, by looking."""
    words = [word for word in shlex.split(call) if word not in ("...", "\\")]
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in words[1:]:
            name, given, _ = word.partition("=")
            wanted = rf"^{re.escape(name)} \?=" if given else rf"^{re.escape(name)}:"
            assert re.search(wanted, makefile, re.MULTILINE), f"make knows no {word}"
    elif words[0] == "python":
        done = subprocess.run([sys.executable, ROOT / words[1], "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[0] == "sbatch":
        script = next((i for i, word in enumerate(words) if word.startswith("slurm/")), None)
        if script is not None:  # else a sentence about options of sbatch
            assert (ROOT / words[script]).exists(), words[script]
            parsed(SLURM[Path(words[script]).stem] + words[script + 1 :])
    else:
        parsed(words[1:])


def parsed(words: list[str]) -> None:
    """Let musekit read the words, and run nothing. MuseError for an unknown option or value; 0 after a help text."""
    try:
        parse(["mini" if word == "PRESET" else word for word in words])
    except SystemExit as end:
        assert not end.code and "--help" in words, words


def test_tables_are_up_to_date():
    check = [sys.executable, str(ROOT / "scripts" / "tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"make demo", "make test"} <= set(CALLS) and len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.stem)
def test_a_result_carries_its_provenance(path):
    content = json.loads(path.read_text())
    about = content["provenance"]
    assert content["name"] == path.stem and content["rows"]
    makers = ("musekit ", "python samples.py", "python scripts/", "python -m pytest -q -m long -k ")
    assert about["command"].startswith(makers)
    assert {"commit", "dirty", "versions", "hardware", "time"} <= about.keys()


@pytest.mark.parametrize(
    "name, where, change, write",
    [
        ("regression", {"measure": "mean", "name": "regression_to_nearest"}, {"mean": 0.0}, "one_to_many"),
        ("distances", {"name": "kernel distance (KAD)"}, {"low": -1.0}, "distances"),
        ("one-to-many", {"measure": "calibration"}, {"high": 1.0}, "one_to_many"),
        ("guidance", {"measure": "stage1 guidance"}, {"obedience": 0.5}, "guidance"),
        ("ddp", {"case": "2 ranks"}, {"last_loss": 0.6}, "ranks"),
        ("resume", {}, {"same_bits": False}, "kills"),
        ("reproducibility", {"measure": "bar"}, {"met": False}, "findings"),
        ("prompts", {"measure": "bar"}, {"met": True}, "findings"),
    ],
)
def test_a_sentence_that_the_results_deny_is_refused(monkeypatch, name, where, change, write):
    getattr(tables, write)()
    read = tables.read

    def denied(wanted: str) -> dict:
        content = read(wanted)
        rows = [r | change if wanted == name and where.items() <= r.items() else r for r in content["rows"]]
        return content | {"rows": rows}

    monkeypatch.setattr(tables, "read", denied)
    with pytest.raises(ValueError, match="the results do not say"):
        getattr(tables, write)()


def test_samples_are_the_described_files_by_the_packaged_weights():
    files = {path.name: path for path in (ROOT / "samples").glob("*.mp3")}
    rows = tables.rows("samples", measure="sample")
    assert files.keys() == {row["file"] for row in rows}
    assert sum(path.stat().st_size for path in files.values()) < 1_200_000
    weights = pretrained.weights_hash(pretrained.find("mini"))
    for row in rows:
        assert row["recipe"]["weights"] == weights, "run `make samples`"
        assert hashlib.sha256(files[row["file"]].read_bytes()).hexdigest() == row["sha256"]
        audio, rate = soundfile.read(files[row["file"]])
        assert rate == 44100 and audio.shape == (pytest.approx(44100 * row["recipe"]["seconds"], abs=4410), 2)
        assert np.sqrt(np.mean(audio**2)) > 0.005, "silence"
    assert sum(f.stat().st_size for f in tables.WEIGHTS.glob("*.safetensors")) < 48 * 2**20


def test_the_script_writes_the_same_files_again(smoke_weights, tmp_path, monkeypatch):
    """With random weights, in seconds: names, recipes, bytes; files of a former run are removed."""
    import samples

    monkeypatch.setattr(samples, "PROMPTS", (("a piano", 0), ("a piano", 1)))
    words = ["samples.py", f"--weights={smoke_weights}", f"--out={tmp_path}", f"--results={tmp_path}"]
    monkeypatch.setattr(sys, "argv", words)
    (tmp_path / "old.mp3").touch()
    samples.main()
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.mp3")}
    assert sorted(first) == ["a-piano-0.mp3", "a-piano-1.mp3"]
    samples.main()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.mp3")} == first
    result = json.loads((tmp_path / "samples.json").read_text())
    assert [row["recipe"]["seed"] for row in result["rows"]] == [0, 1] and str(tmp_path) not in json.dumps(result)
