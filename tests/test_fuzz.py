"""Every JSON that is read back may have been damaged or written by someone else: one line, and no traceback."""

import copy
import json
import random
import shutil
from types import SimpleNamespace

import pytest
from test_library import RECIPE
from test_train_command import options

from musekit import cli, generate, pretrained
from musekit.cache import Shards, read_clips, read_shards
from musekit.config import MuseError
from musekit.recipe import Recipe
from musekit.results import summary, write_result
from musekit.runs import Run
from musekit.train import command
from musekit.train.data import Stage1Data, Stage2Data

ODD = [
    None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("-inf"), "", "x" * 5000, "\ud800", "../..", [], {},
    [None], [[]], {"a": {}}, [1, "a"],
]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON, or of lines of JSON, with one thing in it that is wrong."""
    at = rng.randrange(len(data))
    if (how := rng.random()) < 0.3:
        odd = rng.choice(
            [b"", b"\xff\xfe", b"\0", b"1e999", b"[" * 100_000, b'{"a":' * 3000, bytes([rng.randrange(256)])]
        )
        return data[:at] + odd + data[at + rng.randrange(3) :]
    if how < 0.4:
        return data[:at]
    lines = data.splitlines() if data.count(b"\n{") else [data]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    places = [(value, key) for key in value]
    for inside, key in places:
        inner = inside[key]
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, k) for k in keys]
    inside, key = rng.choice(places)
    if isinstance(inside, dict) and how < 0.5:
        del inside[key]
    else:
        inside[key] = copy.deepcopy(rng.choice(ODD))
    lines[number] = json.dumps(value if how < 0.98 else rng.choice(ODD)).encode()
    return b"\n".join(lines)


@pytest.fixture(scope="module")
def readers(tiny, tmp_path_factory):
    """{what: (file, function that reads it)}."""
    here = tmp_path_factory.mktemp("fuzz")
    cache, weights = shutil.copytree(tiny.cache, here / "cache"), shutil.copytree(tiny.weights, here / "weights")
    given = options(SimpleNamespace(cache=cache), here, "stage1")
    given.out = here / "out"
    command.train_part(given)
    run, claim = Run(here / "run"), json.loads((here / "run" / "config.json").read_text())
    result = write_result("result", [{"a": 1.0, "b": "c"}], here / "results")
    (here / "prompts.jsonl").write_text(
        '{"prompt": "a piano", "seed": 3, "n": 2}\n{"prompt": "a harp", "seconds": 1}\n'
    )
    (here / "recipe.json").write_text(RECIPE.to_json())
    requests = SimpleNamespace(**vars(cli.parse(["generate", "--prompts", str(here / "prompts.jsonl")])))
    sidecar = next((cache / "latents").glob("[0-9]*.json"))

    def latents():
        Stage2Data(cache, "train", tiny.config)
        shards = Shards(cache / "latents")
        shards.all(list(shards.index)[:2])

    def summarise():
        command.summarise(run, "stage1", given.train, 1, None)

    return {
        "metrics": (run.folder / "metrics.jsonl", summarise),
        "provenance": (run.folder / "provenance.json", summarise),
        "run": (run.folder / "config.json", lambda: run.claim(claim, ranks=1, threads=1)),
        "weights": (weights / "weights.json", lambda: pretrained.load_part(weights, "stage1")),
        "config": (weights / "config.json", lambda: pretrained.load_part(weights, "stage1")),
        "clips": (cache / "clips.jsonl", lambda: (read_clips(cache), Stage1Data(cache, "train", tiny.config))),
        "manifest": (cache / "latents" / "manifest.json", latents),
        "sidecar": (sidecar, lambda: read_shards(cache / "latents")),
        "result": (result, lambda: summary(result.parent, {})),
        "prompts": (here / "prompts.jsonl", lambda: generate.read_requests(requests, lambda text: None)),
        "recipe": (here / "recipe.json", lambda: Recipe.from_json((here / "recipe.json").read_bytes())),
    }


@pytest.mark.parametrize("inputs", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_damaged_files_are_one_line(readers, capsys, inputs):
    rng, refused = random.Random(inputs), 0
    for number in range(inputs):
        name = sorted(readers)[number % len(readers)]
        path, read = readers[name]
        whole = path.read_bytes()
        path.write_bytes(bad := damaged(whole, rng))
        try:
            read()
        except MuseError as error:
            refused += 1
            capsys.readouterr()  # notes
            with pytest.raises(SystemExit):
                cli.fail(str(error))
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and len(said) <= 301, said
        except Exception as error:
            raise AssertionError(f"{name}, input {number}: {bad[:300]!r}") from error
        finally:
            path.write_bytes(whole)
    assert refused > inputs / 4
