"""The pages a reader starts from: links lead somewhere, commands parse, and what is heard is what is told."""

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

from musekit import arguments, pretrained
from musekit.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "slurm/README.md", ROOT / "musekit/weights/mini/MODEL_CARD.md"]
SLURM = {"cache": ["cache"], "stage1": ["train", "stage1"], "stage2": ["train", "stage2"]}
SLURM |= {"generate": ["generate"], "bench": ["bench"]}
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:musekit|make|python|sbatch|torchrun) [^`]+)`")


def commands(text: str) -> list[str]:
    """Indented command lines, without their comments, and those named in a sentence; not what a table has recorded."""
    text = re.sub(r"<!-- table:.*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    shown = [line.split("  #")[0] for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    parts = [part.strip() for line in shown for part in line.split("; ")]
    starts = ("musekit ", "make ", "python ", "sbatch ", "torchrun ")
    return [part for part in parts if part.startswith(starts)] + [" ".join(c.split()) for c in NAMED.findall(text)]


def anchors(text: str) -> set[str]:
    """GitHub's names of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path):
    text = page.read_text()
    for target in LINK.findall(text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        assert not name or (page.parent / name).exists(), f"{page.name} links to {target}, which is not there"
        assert not anchor or name or anchor in anchors(text), f"{page.name} has no heading for {target}"


def test_the_map_of_the_code_is_complete():
    """Every folder of the package and of the checkout is on the README's map, and nothing that is not there."""
    text = (ROOT / "README.md").read_text()
    map_ = text[text.index("## The code") : text.index("## Train it again")]
    folders = {f"{p.parent.name}/" for p in (ROOT / "musekit").glob("*/__init__.py")}
    folders |= {"notebooks/", "samples/", "slurm/", "poster/", "results/", "scripts/", "tests/"}
    named = set(re.findall(r"(?:^| )([a-z_0-9]+/)", map_))
    assert folders <= named, f"the map lacks {folders - named}"
    for name in re.findall(r"\b[a-z_0-9]+\.py\b", map_):
        assert (ROOT / "musekit" / name).exists() or name == "__init__.py", f"the map names {name}"
    assert named - folders <= {"musekit/", "weights/"}, named - folders


CALLS = [
    (page.name if page.parent != ROOT / "slurm" else "slurm", c) for page in PAGES for c in commands(page.read_text())
]


def test_commands_are_found_on_every_page():
    assert {"README.md", "slurm"} <= {page for page, _ in CALLS}
    assert {"make demo", "make test"} <= {call for _, call in CALLS}


@pytest.mark.parametrize("page, call", sorted(set(CALLS)))
def test_every_command_parses(page: str, call: str):
    """musekit's by its own parser, run nothing; make's targets and variables, and scripts, by looking."""
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
    words = ["mini" if word == "PRESET" else word for word in words]
    try:
        arguments.parse(COMMANDS, "musekit", "", words)
    except SystemExit as end:
        assert not end.code and "--help" in words, words


# -- samples ----------------------------------------------------------------------------------------------------

RESULT = ROOT / "results" / "samples.json"


def rows() -> list[dict]:
    return [row for row in json.loads(RESULT.read_text())["rows"] if row["measure"] == "sample"]


def test_samples_are_the_files_that_were_told():
    files = {path.name: path for path in (ROOT / "samples").glob("*.mp3")}
    assert files.keys() == {row["file"] for row in rows()} and 4 <= len(files) <= 8
    assert sum(path.stat().st_size for path in files.values()) < 1_200_000
    for row in rows():
        assert hashlib.sha256(files[row["file"]].read_bytes()).hexdigest() == row["sha256"]
        audio, rate = soundfile.read(files[row["file"]])
        assert (
            rate == 44100
            and audio.shape[1] == 2
            and len(audio) / rate == pytest.approx(row["recipe"]["seconds"], abs=0.1)
        )
        assert np.sqrt(np.mean(audio**2)) > 0.005, "silence"


def test_samples_are_of_the_packaged_weights():
    """After other weights were packaged: `make samples`."""
    weights = pretrained.weights_hash(pretrained.find("mini"))
    assert {row["recipe"]["weights"] for row in rows()} == {weights}, "run `make samples`"


def test_one_prompt_is_answered_more_than_once():
    asked = [row["prompt"] for row in rows()]
    assert any(asked.count(prompt) > 1 for prompt in asked) and len(set(asked)) > 1
    assert len({row["sha256"] for row in rows()}) == len(asked)


def test_the_script_writes_the_same_files_again(smoke_weights, tmp_path, monkeypatch):
    """With random weights, in seconds: names, recipes, bytes; what a former run left goes."""
    import samples

    monkeypatch.setattr(samples, "ASKED", (("a piano", 0), ("a piano", 1)))
    monkeypatch.setattr(
        sys, "argv", ["samples.py", f"--weights={smoke_weights}", f"--out={tmp_path}", f"--results={tmp_path}"]
    )
    (tmp_path / "old.mp3").touch()
    assert samples.main() == 0
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.mp3")}
    assert sorted(first) == ["a-piano-0.mp3", "a-piano-1.mp3"]
    assert samples.main() == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.mp3")} == first
    told = json.loads((tmp_path / "samples.json").read_text())
    assert [row["recipe"]["seed"] for row in told["rows"]] == [0, 1] and str(tmp_path) not in json.dumps(told)
