"""A folder of a public model is data: what names code, or a model that nobody asked for, is refused in one line."""

import json

import pytest

from musekit.config import MuseError
from musekit.encoders import hub


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("config.json", {"auto_map": {"AutoModel": "elsewhere--module.Class"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["module.Class", None]}}),
        ("config.json", {"text_config": [{"attn_implementation": "owner/kernel"}]}),
        ("config.json", {"quantization_config": {"quant_method": "other"}}),
    ],
)
def test_a_folder_that_names_code_is_refused(tmp_path, file, entry):
    (tmp_path / "config.json").write_text('{"model_type": "t5", "_attn_implementation": "sdpa", "auto_map": null}')
    assert hub.folder(str(tmp_path), "text.name") == tmp_path
    (tmp_path / file).write_text(json.dumps({"model_type": "t5", **entry}))
    with pytest.raises(MuseError, match="names code to load"):
        hub.folder(str(tmp_path), "text.name")


def test_a_model_that_muse_does_not_know_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path))
    with pytest.raises(MuseError, match="not fetched; if you trust it: hf download someone/model"):
        hub.folder("someone/model", "text.name")
    (tmp_path / "models" / "model").mkdir(parents=True)
    (tmp_path / "models" / "model" / "config.json").write_text("{}")
    assert hub.folder("someone/model", "text.name") == tmp_path / "models" / "model"
