"""Configuration: presets, JSON both ways, wrong values in one line, and what importing the package needs."""

import dataclasses
import os
import subprocess
import sys

import pytest

from musekit import config, pretrained
from musekit.config import MuseConfig, MuseError, Stage1Config
from musekit.files import decode


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


def test_a_config_may_leave_fields_out():
    made = read('{"name": "own", "stage1": {"width": 64}, "sample": {"seconds": 4}}')
    assert made.stage1 == Stage1Config(width=64) and made.codec == config.mini().codec and made.sample.seconds == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "x", "stage1": {"widht": 64}}', "did you mean 'width'"),
        ('{"name": "x", "stage1": {"width": "wide"}}', "stage1.width"),
        ('{"name": "x", "codec": {"power": NaN}}', "malformed"),
        ('{"stage1": {}}', "`name`"),
        ('{"name": "x"', "truncated"),
        (b"\xff\xfe", "cannot be read"),
        ('{"name": ' + "[" * 100_000, "cannot be read"),
    ],
)
def test_a_wrong_config_is_one_clear_error(text, says):
    with pytest.raises(MuseError) as caught:
        read(text)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage1": {"heads": 0}}, r"Expected `int` >= 1 - at `\$\.stage1\.heads`"),
        ({"stage2": {"width": 10**12}}, "stage2.width"),
        ({"stage1": {"heads": 5}}, "stage1.width is a multiple of stage1.heads"),
        ({"stage2": {"latent_dim": 9}}, "stage2.latent_dim = codec.latent_dim"),
        ({"stage1": {"gaussian_rank": 512}}, "gaussian_rank < stage1.dim"),
        ({"stage2": {"stable_audio": True}}, "modulation = false"),
        ({"codec": {"kind": "obleck"}}, r"'obleck' - at `\$\.codec\.kind`"),
        ({"embedder": {"bands": 150}}, "multiple of 24"),
    ],
)
def test_a_folder_with_impossible_numbers_is_refused_by_field(tmp_path, change, says):
    (tmp_path / "config.json").write_text(config.to_json(changed(**change)))
    with pytest.raises(MuseError, match=says) as caught:
        pretrained.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for given, home in {"/own": "/own", "": str(tmp_path / "musekit"), "~/x": os.path.expanduser("~/x")}.items():
        monkeypatch.setenv("MUSEKIT_HOME", given)
        assert str(config.home()) == home


def test_importing_does_nothing(tmp_path):
    """No file is written, nothing is printed, and the configuration alone needs neither torch nor numpy."""
    code = "import sys, musekit, musekit.config; assert not {'torch', 'numpy'} & set(sys.modules)\n"
    code += "import musekit.muse, musekit.train.command, musekit.cache.precompute, torch\n"
    code += "print(torch.get_default_dtype())"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("torch.float32\n", "")
    assert list(tmp_path.iterdir()) == []
