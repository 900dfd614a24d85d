"""Configuration: presets, JSON both ways, wrong values in one line, and what importing the package needs."""

import dataclasses
import os
import subprocess
import sys
import typing

import pytest
import torch

from musekit import config, pretrained
from musekit.config import MuseConfig, MuseError, Stage1Config, train_config
from musekit.files import decode

COMPONENTS = ("codec", "text", "embedder", "stage1", "stage2", "sample")


def read(text: str | bytes) -> MuseConfig:
    return decode(text, MuseConfig, "some/config.json", known_only=True)


def changed(**components) -> MuseConfig:
    """smoke with some fields replaced: changed(stage1={"heads": 0})."""
    smoke = config.smoke()
    return dataclasses.replace(
        smoke, **{c: dataclasses.replace(getattr(smoke, c), **values) for c, values in components.items()}
    )


@pytest.mark.parametrize("name", sorted(config.PRESETS))
def test_a_preset_is_consistent_and_survives_json(name):
    made = config.preset(name)
    assert made.name == name and read(config.to_json(made)) == made
    assert not pretrained.misfits(made)
    assert made.codec.hop == 2048 and made.window_seconds >= made.sample.seconds
    assert hash(made) == hash(config.preset(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


def test_a_config_may_leave_fields_out_and_have_fields_that_were_removed():
    made = read('{"name": "own", "stage1": {"width": 64, "idle_weights": false}, "sample": {"seconds": 4}}')
    assert made.stage1 == Stage1Config(width=64) and made.codec == config.mini().codec and made.sample.seconds == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "x", "stage1": {"widht": 64}}', "did you mean 'width'"),
        ('{"name": "x", "stage_1": {}}', "did you mean 'stage1'"),
        ('{"name": "x", "stage1": {"width": "wide"}}', "stage1.width"),
        ('{"name": "x", "stage1": {"width": true}}', "stage1.width"),
        ('{"name": "x", "stage1": {"width": 1e9}}', "stage1.width"),
        ('{"name": "x", "codec": {"power": null}}', "codec.power"),
        ('{"name": "x", "codec": {"power": NaN}}', "malformed"),
        ('{"stage1": {}}', "`name`"),
        ('{"name": "x", "stage1": 3}', "$.stage1"),
        ("[1, 2]", "Expected `object`"),
        ('{"name": "x"', "truncated"),
        ("", "truncated"),
        (b"\xff\xfe", "cannot be read"),
        ('{"name": ' + "[" * 100_000, "cannot be read"),
    ],
)
def test_a_wrong_config_is_one_clear_error(text, says):
    with pytest.raises(MuseError) as caught:
        read(text)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_number_builds_or_is_refused_by_name(component):
    """Absurd values of every number: the network can be built (on the meta device), or the error names the field."""
    part = {"text": "embedder", "sample": None}.get(component, component)
    for name, hint in typing.get_type_hints(type(getattr(config.smoke(), component))).items():
        if hint not in (int, float):
            continue
        refused = 0
        for value in (0, 1, 3, -1, 7, 10**12, 10**400, "1e999", -0.5):
            text = config.to_json(changed(**{component: {name: "HERE"}})).replace('"HERE"', str(value))
            try:
                made = read(text)
                problems = pretrained.misfits(made)
            except MuseError as error:
                problems = [str(error)]
            refused += bool(problems)
            assert not problems or f"{component}.{name}" in " ".join(problems) or "out of range" in problems[0]
            if part and not problems:
                with torch.device("meta"):
                    pretrained.build(part, made)
        assert refused >= 4, name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage1": {"heads": 0}}, r"Expected `int` >= 1 - at `\$\.stage1\.heads`"),
        ({"stage1": {"heads": 5}}, "stage1.width is a multiple of stage1.heads"),
        ({"stage2": {"head_dim": 24}}, "stage2.width is a multiple of stage2.head_dim"),
        ({"stage2": {"head_dim": 2, "kv_heads": 1}}, "stage2.head_dim is a multiple of 4"),
        ({"stage2": {"latent_dim": 9}}, "stage2.latent_dim = codec.latent_dim"),
        ({"stage1": {"gaussian_rank": 512}}, "gaussian_rank < stage1.dim"),
        ({"stage2": {"stable_audio": True}}, "modulation = false"),
        ({"codec": {"linear_bins": 4000}}, "n_fft / 2"),
        ({"codec": {"kind": "obleck"}}, r"'obleck' - at `\$\.codec\.kind`"),
        ({"embedder": {"bands": 150}}, "multiple of 24"),
    ],
)
def test_a_folder_with_impossible_numbers_is_refused_by_field(tmp_path, change, says):
    (tmp_path / "config.json").write_text(config.to_json(changed(**change)))
    with pytest.raises(MuseError, match=says) as caught:
        pretrained.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_each_preset_has_its_own_training_settings():
    mini, paper = train_config("mini", "stage2"), train_config("paper", "stage2")
    assert (mini.lr, mini.samples) == (1e-3, 360_000) and train_config("smoke", "stage2") == mini
    assert (paper.lr, paper.batch, paper.checkpoint_minutes) == (1e-4, 32, 30.0)
    assert train_config("paper", "stage2", init=True).lr == 5e-5
    assert train_config("paper", "stage1", init=True).lr == train_config("paper", "stage1").lr == 1e-4
    with pytest.raises(MuseError, match="did you mean 'stage1'"):
        train_config("mini", "stag1")


@pytest.mark.parametrize(("wrong", "right"), [("mini ", "mini"), ("smok", "smoke"), ("Mini", "mini")])
def test_an_unknown_preset_is_refused_with_a_suggestion(wrong, right):
    with pytest.raises(MuseError, match=f"did you mean '{right}'"):
        config.preset(wrong)
    with pytest.raises(MuseError) as caught:
        config.preset("x" * 100_000)
    assert len(str(caught.value)) < 200


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for given, home in {"/own": "/own", "": str(tmp_path / "musekit"), "~/x": os.path.expanduser("~/x")}.items():
        monkeypatch.setenv("MUSEKIT_HOME", given)
        assert str(config.home()) == home


# The only packages that `import musekit` and training may need: torch with its own requirements, numpy, soundfile,
# safetensors, msgspec. (The command line needs tyro and tqdm as well.)
ONLY_THE_NEEDED = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, requires
import re

def needs(name, found):
    if name not in found:
        found.add(name)
        for line in requires(name) or []:
            if "extra ==" not in line:
                try:
                    needs(re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-"), found)
                except Exception:  # a requirement of another platform
                    pass
    return found

allowed = set()
for name in ("torch", "numpy", "soundfile", "safetensors", "msgspec", *{extra!r}):
    needs(name, allowed)

owners_of, find_spec = packages_distributions(), PathFinder.find_spec

def find_what_is_allowed(name, path=None, target=None):  # the rest is not found, as if not installed
    owners = owners_of.get(name.partition(".")[0])
    if owners and not any(o.lower().replace("_", "-") in allowed | {{"musekit"}} for o in owners):
        return None
    return find_spec(name, path, target)

PathFinder.find_spec = find_what_is_allowed
for name in ("music21", "muq", "diffusers", "librosa", "transformers", "matplotlib", "pandas"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{{name}} is not blocked")
"""


def run_with_only_the_needed(code: str, extra: tuple[str, ...] = ()) -> str:
    """Run Python where third-party packages other than the needed ones cannot be imported; its output."""
    script = ONLY_THE_NEEDED.format(extra=extra) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_need_few_packages():
    out = run_with_only_the_needed(
        "import musekit; import musekit.config; light = 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import musekit.train, musekit.train.command, musekit.train.data, musekit.pretrained, musekit.codec\n"
        "import musekit.encoders, musekit.cache.precompute, musekit.runs, musekit.distributed, musekit.recipe\n"
        "import musekit.heldout, musekit.generate\n"
        "from musekit import Muse\n"
        "print(light, Muse.__name__)"
    )
    assert out.split() == ["True", "Muse"]


def test_importing_does_nothing(tmp_path):
    """No file is written and nothing is printed."""
    code = "import musekit.muse, musekit.train.command, musekit.cache.precompute, torch\n"
    code += "print(torch.get_default_dtype())"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("torch.float32\n", "")
    assert list(tmp_path.iterdir()) == []
