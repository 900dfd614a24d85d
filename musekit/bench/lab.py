"""`musekit bench lab`: how long a person waits in the lab, and how much memory its kernel takes.

Each part (`parts`) runs in a new Jupyter kernel, with the views of notebook 05; what the browser adds is not in it.
With `--against FOLDER` it runs in that checkout, too, in turn, for the bars that are relative to it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from musekit.bench import parts
from musekit.bench.measure import Row, Setup, instructions, median, row
from musekit.config import MuseError

# bars of the ratio to the other checkout
AGAINST = {parts.CLICK: 0.6, parts.COLD: 0.5, parts.SAMPLES: 0.25, parts.DRAFT: 0.3, parts.DECODING: 0.2}


def lab(setup: Setup) -> Iterator[Row]:
    """A row per measurement, and one of its ratio to the other checkout."""
    from musekit.lab.lab import draft_steps

    steps, draft = setup.muse.config.sample.stage2_steps, draft_steps(setup.muse)
    bars = {parts.FINGER: 0.35 if "AMX" in instructions(setup.device) else 0.8, parts.SHARE: 0.4, parts.MEMORY: 1.3e9}
    bars |= dict.fromkeys(parts.PAGES, 0.3)
    named = {"sampling": None, "click": draft, "finger": draft, "cards": steps, "cold": steps, "script": None}
    for name, n in (named | {"library": None}).items():
        part = getattr(parts, name)
        here = run(part, setup, Path(__file__).parents[2])
        there = run(part, setup, setup.against) if setup.against and name not in ("finger", "library") else {}
        ran = {"steps": n, "nfe": n}
        for what, values in here.items():
            unit = "B" if what == parts.MEMORY else "of all" if what == parts.SHARE else "s"
            yield row(what, values, unit, part.__doc__, (bar := bars.get(what)) and ("<", bar)) | ran
            if what in there:
                ratios, bar = [value / median(there[what]) for value in values], AGAINST.get(what)
                how = f"{part.__doc__}; there by its own steps"
                yield row(f"{what}: of {setup.against.name}'s", ratios, "x", how, bar and ("<", bar)) | ran


def run(part: Callable, setup: Setup, checkout: Path) -> parts.Times:
    """What a part measures in a new kernel on a checkout. Raises MuseError where it fails."""
    from jupyter_client.manager import start_new_kernel

    weights = str(setup.muse.folder) if Path(setup.weights).exists() else setup.weights  # each its own of that name
    with tempfile.TemporaryDirectory(prefix="muse-bench-") as home:
        places = {"PYTHONPATH": str(checkout.resolve()), "MUSEKIT_HOME": home, "IPYTHONDIR": home}
        began = time.time()
        manager, client = start_new_kernel(
            kernel_name="python3", env=os.environ | places, cwd=home, extra_arguments=["--log-level=ERROR"]
        )
        try:
            call = f"({parts.__file__!r})[{part.__name__!r}]({weights!r}, {setup.quick!r}, {began!r})"
            client.execute_interactive(f"import json, runpy; out = json.dumps(runpy.run_path{call})")
            answer = client.execute_interactive("", user_expressions={"out": "out"})
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    value = answer["content"]["user_expressions"]["out"]
    if value["status"] != "ok":
        raise MuseError(f"bench lab: {part.__name__} failed in {checkout}, see above")
    return json.loads(value["data"]["text/plain"][1:-1])
