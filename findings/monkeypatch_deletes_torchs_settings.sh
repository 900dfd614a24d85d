#!/usr/bin/env bash
# pytest 9.2's monkeypatch deletes a setting of torch's compiler that it was asked to change for one test.
#
# Guess before trying: `monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ...)` puts the old value back at the end.
# Seen with pytest 9.2.0 and torch 2.11.0: `config.cpp` is a proxy, which passes reading, writing and deleting on to the
# whole configuration and has an empty `__dict__`. From 9.2 on monkeypatch takes the old value of an instance from its
# `__dict__` (so that what it inherits is not left behind as its own). Here that counts as missing, and the end of the
# test deletes the setting: whatever is compiled later in that process fails with "torch._inductor.config.cpp.cxx does
# not exist". `torch._inductor.config.patch({"cpp.cxx": ...})` puts it back. With pytest 9.1.1 monkeypatch does, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.11.0 numpy
cat > "$folder/try.py" <<'PYTHON'
import pytest
import torch._inductor.config as config

before = config.cpp.cxx
assert "cxx" not in vars(config.cpp)
with config.patch({"cpp.cxx": ("other",)}):
    assert config.cpp.cxx == ("other",)
assert config.cpp.cxx == before
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(config.cpp, "cxx", ("other",))
    assert config.cpp.cxx == ("other",)
try:
    print(f"pytest {pytest.__version__}: the setting is back" if config.cpp.cxx == before else "another value")
except AttributeError as error:
    print(f"pytest {pytest.__version__}: {error}")
PYTHON
for version in 9.1.1 9.2.0; do
    "$folder/venv/bin/pip" install -q --disable-pip-version-check "pytest==$version"
    "$folder/venv/bin/python" "$folder/try.py" 2> /dev/null
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
pytest 9.1.1: the setting is back
pytest 9.2.0: torch._inductor.config.cpp.cxx does not exist
SEEN
