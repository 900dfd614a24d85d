"""Folders of weights and recipes. (tests/test_cli.py damages every file of a folder.)"""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_library import RECIPE

from musekit import config, pretrained
from musekit.config import MuseError
from musekit.controls import Controls
from musekit.pretrained import load_part
from musekit.recipe import Recipe


def test_a_component_is_loaded_as_it_was_saved(tiny, tmp_path):
    """Matrices in half precision, vectors in full precision, in evaluation mode and without gradients."""
    torch.manual_seed(1)
    network = pretrained.build("stage2", tiny.config)
    path = pretrained.save_part(tmp_path, "stage2", network, tiny.config)
    loaded, digest = load_part(tmp_path, "stage2")
    assert digest == json.loads((tmp_path / "weights.json").read_text())["stage2"]
    stored = load_file(path)
    for name, value in network.state_dict().items():
        assert stored[name].dtype == (torch.float16 if value.dim() > 1 else torch.float32)
        assert torch.equal(loaded.state_dict()[name], value.half().float() if value.dim() > 1 else value)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_saving_one_component_leaves_the_others(tiny, tmp_path):
    folder = shutil.copytree(tiny.weights, tmp_path / "weights")
    before = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    hashes = pretrained.weights_hash(folder)
    torch.manual_seed(2)
    pretrained.save_part(folder, "stage1", pretrained.build("stage1", tiny.config), tiny.config)
    after = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    assert {name for name in before if before[name] != after[name]} == {"stage1.safetensors"}
    assert pretrained.weights_hash(folder) != hashes
    for part in (*pretrained.PARTS, pretrained.BASELINE):
        load_part(folder, part)


def test_the_packaged_weights_keep_their_hash():
    """Recipes inside generated files name it; sampling defaults do not change it."""
    assert pretrained.weights_hash(pretrained.find("mini")) == "33b3d5af41da0689"
    shape = config.identity(config.mini())["stage2"]
    assert "stable_audio" not in shape and config.identity(config.paper())["stage2"]["stable_audio"] is True


def test_a_recipe_is_one_line_of_json_both_ways():
    recipe = dataclasses.replace(RECIPE, prompt="ein trauriges Lied 🎵")
    text = recipe.to_json()
    assert "\n" not in text and "🎵" in text
    assert Recipe.from_json(text) == recipe
    assert Recipe.from_json(dataclasses.replace(recipe, negative_prompt="drums").to_json()) != recipe


@pytest.mark.parametrize("text", ["", "[]", '{"promt": "x"}'])
def test_text_that_is_not_a_recipe_is_one_clear_line(text):
    with pytest.raises(MuseError, match="recipe"):
        Recipe.from_json(text)


def test_a_config_that_claims_more_than_the_file_holds_is_refused_before_memory_is_taken(tiny, tmp_path):
    folder = shutil.copytree(tiny.weights, tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    config["stage1"] |= {"width": 2**14, "depth": 256, "heads": 1}  # terabytes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MuseError, match="does not fit .*: the network is larger than"):
        pretrained.load_part(folder, "stage1")


def test_the_sentence_says_the_key_that_the_prompt_leaves_out():
    asked = Controls(key="D minor", bpm=90)
    for text in ("a flute", "a flute in D minor"):
        assert dataclasses.replace(RECIPE, prompt=text, controls=asked).sentence == "a flute in D minor"
    assert RECIPE.sentence == RECIPE.prompt
