"""A config of absurd numbers is one line, never a traceback from inside torch."""

import dataclasses
import json

import pytest
import torch

from musekit import bounds, cli, config, pretrained
from musekit.config import MuseError

PARTS = {"codec": ["codec"], "text": ["embedder"], "embedder": ["embedder"], "stage1": ["stage1"], "stage2": ["stage2"]}
FIELDS = [
    (part, f.name)
    for part in (*PARTS, "sample")
    for f in dataclasses.fields(getattr(config.smoke(), part))
    if type(f.default) in (int, float)
]


def changed(made: config.MuseConfig, **parts) -> config.MuseConfig:
    """A config with some fields of some parts replaced: changed(made, stage1={"heads": 0})."""
    return dataclasses.replace(made, **{p: dataclasses.replace(getattr(made, p), **v) for p, v in parts.items()})


@pytest.mark.parametrize("name", sorted(config.PRESETS))
def test_presets_are_within_bounds(name):
    bounds.check(config.preset(name))


@pytest.mark.parametrize(("part", "name"), FIELDS)
def test_any_number_builds_or_is_one_line(part, name):
    """Either the network can be made (without memory: the meta device), or the line names the field."""
    refused = 0
    for value in (0, 1, 3, -1, 7, 10**12, 10**400, float("nan"), float("inf"), -0.5):
        made = changed(config.smoke(), **{part: {name: value}})
        try:
            bounds.check(made)
        except MuseError as error:
            assert f"{part}.{name}" in str(error) and "\n" not in str(error) and len(str(error)) < 300
            refused += 1
            continue
        with torch.device("meta"):
            for built in PARTS.get(part, []):
                pretrained.build(built, made)
    assert refused >= 4  # negative, endless, not a number, beyond all memory


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage1": {"heads": 0}}, r"stage1\.heads in some/config\.json must be from 1 to 1048576, not 0"),
        ({"stage1": {"heads": 5}}, r"stage1\.width = 32 must be a multiple of stage1\.heads = 5"),
        ({"stage2": {"head_dim": 24}}, r"stage2\.width = 32 must be a multiple of stage2\.head_dim = 24"),
        ({"stage2": {"kv_heads": 3}}, r"a multiple of stage2\.kv_heads \* stage2\.head_dim = 48"),
        ({"stage2": {"head_dim": 2, "kv_heads": 1}}, r"stage2\.head_dim = 2 must be a multiple of 4"),
        ({"stage2": {"latent_dim": 9}}, r"stage2\.latent_dim = 9 and codec\.latent_dim = 8 must be equal"),
        ({"stage1": {"gaussian_rank": 512}}, r"gaussian_rank = 512 must be below stage1\.dim = 512"),
        ({"stage2": {"stable_audio": True}}, "modulation = false"),
        ({"codec": {"linear_bins": 4000}}, r"n_fft / 2 \+ 1"),
        ({"codec": {"kind": "obleck"}}, "did you mean 'oobleck'"),
        ({"embedder": {"bands": 150}}, "multiple of 24"),
    ],
)
def test_numbers_that_do_not_fit_are_named(change, says):
    with pytest.raises(MuseError, match=says):
        bounds.check(changed(config.smoke(), **change), "some/config.json")


def test_a_tampered_folder_is_one_line_from_the_command(smoke_weights, tmp_path, capsys):
    values = json.loads((smoke_weights / "config.json").read_text())
    values["stage1"]["heads"] = 0
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "music", "--n", "1", "--weights", str(tmp_path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.count("\n") == 1
    assert f"stage1.heads in {tmp_path / 'config.json'} must be from 1" in told
