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
    # what a test measures (`make test-long`) is made by the command that runs the test
    assert provenance["command"].startswith(
        ("musekit ", "python samples.py", "python scripts/samples.py", "python -m pytest -q -m long -k ")
    )
    assert {"commit", "dirty", "versions", "hardware", "time"} <= provenance.keys()


def test_weights_are_under_48_mebibytes():
    files = list((ROOT / "musekit" / "weights").rglob("*.safetensors"))
    assert files and sum(f.stat().st_size for f in files) < 48 * 2**20


def test_a_finding_that_the_results_deny_is_refused():
    """The README's sentences: as they are from the real results, refused once regression comes nearest to music."""
    import copy

    import findings
    import tables

    held = {name: tables.result(name) for name in ("diversity", "regression", "bench", "path")}
    assert f"{findings.row(held['diversity'], measure='mean', level='vague')['spread']:.2f}" in findings.text(held.get)
    denied = copy.deepcopy(held)
    findings.row(denied["regression"], measure="mean", level="vague", name="regression_to_nearest")["low"] = 0.0
    with pytest.raises(ValueError, match="regression lies farther"):
        findings.text(denied.get)


def test_distances_are_told_by_both_ears_or_refused():
    """A row a source and embedding; the reading below it is refused once the results deny it."""
    import copy

    import distant
    import tables

    rows = tables.result("distances")
    told = distant.table(rows)
    assert {r["heard by"].split()[0] for r in told} == {"mini", "librosa"} and all("to" in r["recall"] for r in told)
    assert "joint embedding" in distant.caption(rows)
    denied = copy.deepcopy(rows)
    next(
        r for r in denied
        if r["source"] == "generated audio" and r["name"] == "recall" and r["embedding"].startswith("librosa")
    )["high"] = 1.0  # fmt: skip
    with pytest.raises(ValueError, match="less varied"):
        distant.caption(denied)


def test_answers_outside_of_the_samples_are_told_or_the_sentence_refused():
    """Calibration and regression's sound: numbers from the rows, and no sentence from rows that deny it."""
    import answers
    import tables

    rows = tables.result("one-to-many")
    told = " ".join(answers.text(rows).split())
    widest = next(r for r in rows if r["measure"] == "calibration" and r["level"] == "specific" and r["nominal"] > 0.85)
    assert f"and {100 * widest['inside']:.0f} % of those to a specific one" in told
    assert "that holds 91 % of the samples" in told and "8 vague prompts, 4 pieces each" in told
    for where, change, words in (
        ({"measure": "calibration"}, {"high": 1.0}, "lie outside of the samples"),
        ({"measure": "sound difference", "name": "to_nearest"}, {"low": -0.1}, "farther from music"),
        ({"measure": "sound difference", "name": "similarity"}, {"high": -0.01}, "do not differ significantly"),
    ):
        denied = [r | change if where.items() <= r.items() else r for r in rows]
        with pytest.raises(ValueError, match=words):
            answers.text(denied)


def test_few_steps_are_told_with_their_intervals_and_the_worst_of_the_verdicts():
    import few_step

    zero = {f"{what}{end}": 0.0 for what in ("gap", "loss") for end in ("", "_low", "_high")} | {"verdict": "kept"}
    none = {f"{name}_{key}": value for name in few_step.LOSSES for key, value in zero.items()}
    row = {
        "measure": "few-step",
        "n": 48,
        "seconds": 6.0,
        "kernel_distance": -0.07,
        "relative_error_low": 0.0,
        "relative_error_high": 0.2,
    } | none
    teacher = row | {"name": "teacher", "kind": "teacher", "nfe": 100, "rows": 200, "relative_error": 0.0}
    few = row | {"name": "bespoke 8", "kind": "bespoke", "nfe": 8, "rows": 16, "relative_error": 0.1}
    gap = {"kernel_gap": 0.02, "kernel_gap_low": -0.03, "kernel_gap_high": 0.07}
    unsure = few | gap | {"kernel_verdict": "unresolved"}
    worse = unsure | {"heard_verdict": "worse"}
    rows = [{"measure": "sweep"}, teacher, few, unsure, worse]
    told = few_step.compared(rows)
    assert [r["verdict"] for r in told] == ["kept", "unresolved", "worse"]
    assert told[1]["work of the network, % of the teacher's"] == "8"
    assert told[1]["kernel distance, above the teacher's"] == "0.02 (-0.03 to 0.07)"
    assert told[1]["latents off the teacher's, %"] == "10.0 (0.0 to 20.0)"
    assert "at most 5 % is unresolved" in few_step.sentence([teacher, unsure], 5.0)
    assert "48 held-out prompts, pieces of 6 s" in few_step.caption(rows, 5.0)
    assert "is -0.07, not above 0" in few_step.caption(rows, 5.0)
    assert "in % of it." in few_step.caption([teacher | {"kernel_distance": 0.07}], 5.0)


def test_ablations_that_are_missing_are_named():
    import ablated

    solvers = [
        {"measure": "stage1", "solver": name, "steps": steps, "nfe": 8.0, "error": error}
        for name, steps, error in (("euler", 8, 0.3), ("heun", 4, 0.2), ("midpoint", 4, 0.1), ("dopri5", None, 0.0))
    ]
    solvers.append({"measure": "stage1", "solver": "rk4", "steps": 2, "nfe": 8.0, "error": 0.0, "reference": True})

    def result(name: str) -> list[dict]:
        if name != "ablation-solver":
            raise FileNotFoundError(name)
        return solvers

    rows, missing = ablated.table(result)
    assert [(r["setting"], r["value"]) for r in rows] == [
        ("stage1: midpoint, 8 evaluations", 0.1),
        ("stage1: euler, 8 evaluations", 0.3),
    ]
    assert len(missing) == len(ablated.LINES) - 1 and "ablation-ema" in missing


def test_what_a_bench_has_not_measured_is_said(tmp_path):
    """Beside the original: a column for each full-size bench that was recorded, the command for one that was not."""
    import shutil

    import beside

    for name in ("bench", "diversity", "path", "gallery"):
        shutil.copy(ROOT / "results" / f"{name}.json", tmp_path)
    weights = ROOT / "musekit" / "weights" / "mini"
    bare = beside.compared(tmp_path, weights)
    assert "full size, CPU" not in bare[0] and "`musekit bench batch`" in beside.missing(tmp_path)
    row = {"stage": 2, "dtype": "bfloat16", "backend": "cpu", "seconds": 1.0, "peer": "prepared", "solver": "euler"}
    rows = [row | {"batch": 1, "ms_a_sample": 80.0}, row | {"batch": 4, "ms_a_sample": 40.0}]
    rows += [row | {"batch": 1, "ms_a_sample": 1.0, "peer": "diffusers"}]  # a peer's time is not ours
    rows += [row | {"batch": 1, "ms_a_sample": 1.0, "solver": "dopri5"}]  # nor is another solver's
    (tmp_path / "bench-batch.json").write_text(json.dumps({"rows": rows}))
    whole = {"value": 3.7625, "batch": 16, "seconds_each": 11.9, "what": "16 x 11.9 s", "unit": "s"}
    whole |= {"bar": "<= 3 s", "met": False}
    about = {"provenance": {"hardware": {"gpus": ["A GPU"]}}}
    (tmp_path / "bench-full-gpu.json").write_text(json.dumps({"rows": [whole], **about}))
    steps = [
        {"stage": stage, "what": f"a step of {stage}", "mfu": mfu} for stage, mfu in ((1, 0.9), (2, 0.2), (2, 0.44))
    ]
    (tmp_path / "bench-train-gpu.json").write_text(json.dumps({"rows": steps}))
    told = {row[""]: row for row in beside.compared(tmp_path, weights)}
    stage2 = next(row for what, row in told.items() if what.startswith("Stage 2, ms"))
    assert stage2["full size, CPU"] == "8,000 / 4,000 / – (2.0 x at 4)"
    assert told["16 pieces from text to sound, s: one by one / batched"]["full size, GPU"] == "– / 3.76 (of 11.9 s)"
    assert told["parameters of Stage 1 + Stage 2"]["mini, 2 CPU cores"] == "1.9M + 9.4M"
    assert "missed, of 1: 16 x 11.9 s: 3.76 s, bar <= 3 s." in beside.gpu(tmp_path)
    assert beside.gpu(tmp_path).endswith(" a step of 2: 44 % of the measured dense rate, bar >= 45 % (missed).\n")
    assert "A GPU" in beside.gpu(tmp_path) and "`musekit bench stage1` on a GPU" in beside.missing(tmp_path)
    assert "1,667 / 442 / 239" in next(row for what, row in told.items() if "Stage 1, ms" in what)["original, A800"]


def test_what_ranks_and_kills_changed_is_told_or_refused():
    """The cluster's sentences: numbers from the rows, and no sentence from rows that deny it."""
    import cluster

    case = {"case": "1 rank", "steps": 400, "mean_difference": 0.0, "largest_difference": 0.0, "last_loss": 0.5}
    others = [
        case | {"case": "2 ranks", "mean_difference": 0.002, "largest_difference": 0.03},
        case | {"case": "2 ranks x 2 steps", "mean_difference": 0.001, "largest_difference": 0.04, "last_loss": 0.501},
    ]
    told = " ".join(cluster.ranks({"rows": [case, *others], "provenance": {"preset": "smoke"}}).split())
    assert "on 2 ranks and 2 ranks accumulating over 2 steps" in told and "smoke preset, 400 steps" in told
    assert "by 0.002 on average and 0.04 at most, and ends at 0.500 to 0.501" in told
    with pytest.raises(ValueError, match="ranks follow the curve"):
        cluster.ranks({"rows": [case, others[0] | {"last_loss": 0.6}], "provenance": {"preset": "smoke"}})

    kill = {"run": 0, "world": 2, "during_a_checkpoint_write": True, "same_bits": True, "same_curve": True}
    rows = [kill, kill | {"during_a_checkpoint_write": False}, kill | {"run": 1, "world": 4}]
    told = " ".join(cluster.kills(rows).split())
    assert "2 runs on 2 and 4 ranks were killed (SIGKILL) 3 times" in told and "2 of these while" in told
    with pytest.raises(ValueError, match="same bits"):
        cluster.kills([kill | {"same_bits": False}])


def test_room_is_told_in_rows_gigabytes_and_files():
    import cluster

    rows = [{"measure": "rate"}, {"measure": "estimate", "data": "A", "kind": "all", "rows": 5000, "hours": 1.0}]
    rows[1] |= {"gigabytes": 1234.56, "files": 12}
    assert cluster.room(rows) == [{"data set": "A", "what": "all", "rows": "5,000", "GB": "1,234.6", "files": "12"}]
