"""The pages' tables are what the result files say, and every result file says where it came from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = sorted((ROOT / "results").glob("*.json"))


def test_tables_are_up_to_date():
    check = [sys.executable, str(ROOT / "scripts" / "tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_results():
    assert {p.stem for p in RESULTS} >= {"bench", "corpus", "diversity"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_result_carries_its_provenance(path):
    content = json.loads(path.read_text())
    assert content["name"] == path.stem and content["rows"]
    provenance = content["provenance"]
    assert provenance["command"].startswith("musekit ")
    assert {"commit", "dirty", "versions", "hardware", "time"} <= provenance.keys()


def test_weights_are_under_48_mebibytes():
    files = list((ROOT / "musekit" / "weights").rglob("*.safetensors"))
    assert files and sum(f.stat().st_size for f in files) < 48 * 2**20
