"""Configuration: JSON both ways, errors that suggest, and what importing the package may not need."""

import dataclasses
import json
import subprocess
import sys

import pytest

from musekit import config
from musekit.config import MuseConfig, MuseError, Stage1Config


@pytest.mark.parametrize("name", sorted(config.PRESETS))
def test_json_round_trip(name):
    made = config.preset(name)
    assert made.name == name
    assert config.from_json(config.to_json(made)) == made
    changed = dataclasses.replace(made, stage1=dataclasses.replace(made.stage1, width=77, condition_dropout=0.5))
    again = config.from_json(config.to_json(changed))
    assert again == changed != made


def test_a_config_may_leave_fields_out_and_keeps_its_defaults():
    made = config.from_json('{"name": "own", "stage1": {"width": 64}}')
    assert made.stage1 == Stage1Config(width=64) and made.codec == config.mini().codec


def test_config_is_frozen_and_its_hash_is_its_content():
    made = config.mini()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"
    assert hash(made) == hash(config.mini()) != hash(config.smoke())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "x", "stage1": {"widht": 64}}', "did you mean 'width'"),
        ('{"name": "x", "stage_1": {}}', "did you mean 'stage1'"),
        ('{"name": "x", "stage1": {"width": "wide"}}', "stage1.width must be a int"),
        ('{"name": "x", "stage1": {"width": true}}', "stage1.width must be a int"),
        ('{"name": "x", "codec": {"power": null}}', "codec.power must be a float"),
        ('{"stage1": {}}', "name"),
        ('{"name": "x", "stage1": 3}', "not a MUSE configuration"),
        ("[1, 2]", "not a MUSE configuration"),
        ("null", "not a MUSE configuration"),
        ('{"name": "x"', "not a MUSE configuration"),
        ("", "not a MUSE configuration"),
    ],
)
def test_a_config_that_is_none_is_one_clear_error(text, says):
    with pytest.raises(MuseError) as caught:
        config.from_json(text, where="some/config.json")
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


def test_a_whole_number_may_stand_for_a_float():
    assert config.from_json('{"name": "x", "sample": {"seconds": 4}}').sample.seconds == 4


@pytest.mark.parametrize(("wrong", "right"), [("mini ", "mini"), ("smok", "smoke"), ("Mini", "mini")])
def test_unknown_preset_suggests(wrong, right):
    with pytest.raises(MuseError, match=f"did you mean '{right}'"):
        config.preset(wrong)


def test_a_long_unknown_word_is_not_repeated_whole():
    with pytest.raises(MuseError) as caught:
        config.preset("x" * 100_000)
    assert len(str(caught.value)) < 200 and "mini" in str(caught.value)


@pytest.mark.parametrize("name", sorted(config.PRESETS))
def test_the_parts_of_a_preset_fit_each_other(name):
    made = config.preset(name)
    assert made.stage2.latent_dim == made.codec.latent_dim
    assert made.stage1.dim == made.stage2.embedding_dim == made.embedder.dim == 512
    assert made.stage1.text_dim == made.text.dim
    assert made.stage1.width % made.stage1.heads == 0
    assert made.stage2.width % (made.stage2.kv_heads * made.stage2.head_dim) == 0
    assert made.codec.hop == 2048 and made.window_seconds >= made.sample.seconds


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path / "own"))
    assert config.home() == tmp_path / "own"
    monkeypatch.setenv("MUSEKIT_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert config.home() == tmp_path / "musekit"
    monkeypatch.setenv("MUSEKIT_HOME", "~/music")
    assert "~" not in str(config.home())


# Only these may be needed by `import musekit` and by training: torch with what it needs itself, numpy,
# soundfile, safetensors. (The command line adds tyro and tqdm.)
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


def test_imports_need_only_torch_numpy_soundfile_safetensors():
    out = run_with_only_the_needed(
        "import musekit; import musekit.config; light = 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import musekit.train, musekit.train.command, musekit.train.data, musekit.pretrained, musekit.codec\n"
        "import musekit.encoders\n"
        "from musekit import Muse\n"
        "import musekit.cache.precompute, musekit.runs, musekit.distributed, musekit.recipe\n"
        "print(light, Muse.__name__)"
    )
    assert out.split() == ["True", "Muse"]


def test_importing_does_nothing(tmp_path):
    """No file is written, no environment read decides anything, nothing is printed."""
    code = "import musekit.muse, musekit.train.command, musekit.cache.precompute, torch\n"
    code += "print(torch.get_default_dtype())"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("torch.float32\n", "")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_attribute_of_the_package_is_an_attribute_error():
    import musekit

    with pytest.raises(AttributeError, match="Muze"):
        _ = musekit.Muze
    assert json.loads(config.to_json(config.smoke()))["name"] == "smoke"
    assert isinstance(config.smoke(), MuseConfig)
