"""Folders of weights and recipes: what is missing, altered or foreign is one clear line."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from musekit import config, pretrained
from musekit.config import MuseError
from musekit.muse import Muse
from musekit.pretrained import load_part
from musekit.recipe import Recipe


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny weights that may be spoilt."""
    return shutil.copytree(tiny.weights, tmp_path / "weights")


def test_a_part_comes_back_as_it_was_saved(tiny, tmp_path):
    """Matrices in half precision, vectors whole, in evaluation mode and without gradients."""
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


def test_saving_one_part_leaves_the_others(folder, tiny):
    before = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    hashes = pretrained.weights_hash(folder)
    torch.manual_seed(2)
    pretrained.save_part(folder, "stage1", pretrained.build("stage1", tiny.config), tiny.config)
    after = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    assert {name for name in before if before[name] != after[name]} == {"stage1.safetensors"}
    assert pretrained.weights_hash(folder) != hashes
    for part in (*pretrained.PARTS, pretrained.BASELINE):
        load_part(folder, part)


def test_two_parts_that_end_together_both_keep_their_hash(tiny, tmp_path, monkeypatch):
    """Hashing a large file takes seconds, in which another training may write its own part's hash."""
    (tmp_path / "weights.json").write_text("{}")
    sha256 = pretrained.hashlib.sha256

    def slowly(*data):
        (tmp_path / "weights.json").write_text('{"stage2": "of another"}')
        return sha256(*data)

    monkeypatch.setattr(pretrained.hashlib, "sha256", slowly)
    pretrained.save_part(tmp_path, "stage1", pretrained.build("stage1", tiny.config), tiny.config)
    assert sorted(json.loads((tmp_path / "weights.json").read_text())) == ["stage1", "stage2"]


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_an_altered_file_is_refused(folder, how):
    path = folder / "stage1.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": bytes(data), "truncated": bytes(data[:-10]), "empty": b""}[how])
    with pytest.raises(MuseError, match=r"stage1\.safetensors is not the file that weights\.json names"):
        load_part(folder, "stage1")
    load_part(folder, "codec")  # the others are whole


def test_a_missing_file_says_how_to_get_it(folder):
    (folder / "codec.safetensors").unlink()
    with pytest.raises(MuseError, match=r"codec\.safetensors is missing; restore it, or train it: musekit train codec"):
        load_part(folder, "codec")
    (folder / "weights.json").unlink()
    with pytest.raises(MuseError, match=r"weights\.json is missing or damaged"):
        load_part(folder, "stage1")


@pytest.mark.parametrize("text", ["", "{", '{"codec": 1', "[]"])
def test_damaged_hashes_are_one_clear_line(folder, text):
    (folder / "weights.json").write_text(text)
    with pytest.raises(MuseError, match=r"weights\.json"):
        load_part(folder, "stage1")


def test_weights_of_another_shape_name_the_config(folder):
    other = dataclasses.replace(config.smoke(), stage1=dataclasses.replace(config.smoke().stage1, width=64))
    (folder / "config.json").write_text(config.to_json(other))
    with pytest.raises(MuseError, match=r"stage1\.safetensors does not fit .*config\.json"):
        load_part(folder, "stage1")


@pytest.mark.parametrize("text", ["", "nonsense", '{"nmae": "x"}'])
def test_a_tampered_config_is_one_clear_line(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(MuseError, match=r"config\.json"):
        load_part(folder, "stage1")


@pytest.mark.parametrize("name", ["minni", "/nowhere", "", "x" * 5000, "a\0b"])
def test_an_unknown_name_or_folder_is_one_clear_line(name):
    with pytest.raises(MuseError, match="no weights at") as caught:
        pretrained.find(name)
    assert len(str(caught.value)) < 400


def recipe() -> Recipe:
    return Recipe(
        prompt="ein trauriges Lied 🎵", negative_prompt=None, seed=7, seconds=2.0, preset="smoke", weights="abc",
        stage1_solver="euler", stage1_steps=3, stage1_guidance_scale=1.0, stage2_solver="dopri5", stage2_steps=5,
        guidance_scale=3.0, micro_batch=4, max_tokens=32, dtype="float32", device="cpu", threads=2, versions="x",
    )  # fmt: skip


def test_a_recipe_is_one_line_of_json_both_ways():
    text = recipe().to_json()
    assert "\n" not in text and "🎵" in text
    assert Recipe.from_json(text) == recipe()
    assert Recipe.from_json(dataclasses.replace(recipe(), negative_prompt="drums").to_json()) != recipe()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"promt": "x"}', "null"])
def test_what_is_no_recipe_is_one_clear_line(text):
    with pytest.raises(MuseError):
        Recipe.from_json(text)


def test_a_system_is_copied_with_its_hashes_and_into_its_own_folder_is_left_as_it_is(smoke_weights, tmp_path):
    muse = Muse.from_pretrained(smoke_weights)
    muse.save_pretrained(tmp_path / "copy")
    assert pretrained.read_hashes(tmp_path / "copy") == pretrained.read_hashes(smoke_weights)
    there = Muse.from_pretrained(tmp_path / "copy")
    there.save_pretrained(tmp_path / "copy" / ".." / "copy")
    assert torch.equal(there.embed("a waltz"), muse.embed("a waltz"))
