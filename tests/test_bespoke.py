"""Bespoke solvers: Euler to the bit where their numbers are Euler's; a known solution; their file."""

import json
import shutil

import numpy as np
import pytest
import torch

from musekit.config import MuseError
from musekit.muse import Muse, Settings
from musekit.solve import bespoke, fit, learned, solve
from musekit.solve.bespoke import Bespoke, power
from musekit.train.solver import Lesson, Pairs, conditions, learn, train_solver

TINY = Lesson(budgets=(2, 3), pairs=4, held_out=2, seconds=0.5, steps=10, tries=3, batch=4)


# -- the method, on dx/dt = A x with a known solution

MATRIX = torch.tensor([[0.3, -4.0], [4.0, -0.8]], dtype=torch.float64)  # turns and shrinks


def turned(t, x: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.T


def exact(t: float, x_0: torch.Tensor) -> torch.Tensor:
    return x_0 @ torch.linalg.matrix_exp(MATRIX * t).T


def starts(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_table(table: Bespoke, x_0: torch.Tensor, **more) -> torch.Tensor:
    return solve(turned, x_0, solver=f"bespoke-{table.nfe}", table=table, **more).x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eulers_numbers_are_euler_to_the_bit(dtype):
    grid = power(7, 1.7, 1.2)
    x_0 = starts(5).to(dtype)

    def bent(t, x):
        return torch.sin(3 * x) - t[:, None] * x

    table = Bespoke.euler(grid)
    one, two = solve(bent, x_0, grid=grid, trajectory=True), None
    two = solve(bent, x_0, solver="bespoke-7", table=table, trajectory=True)
    assert torch.equal(one.x, two.x) and torch.equal(one.trajectory, two.trajectory)
    assert two.nfe.tolist() == [7] * 5 and two.times.tolist() == grid


def test_adams_bashforth_is_the_recurrence_written_out():
    grid, x_0 = power(6, 1.4), starts(3)
    x = x_0 + grid[1] * turned(0, x_0)
    u_old = turned(0, x_0)
    for a, b, c in zip(grid, grid[1:], grid[2:]):
        u, r = turned(b, x), (c - b) / (b - a)
        x, u_old = x + (c - b) * ((1 + r / 2) * u - r / 2 * u_old), u
    assert torch.allclose(by_table(Bespoke.adams_bashforth(grid), x_0), x, rtol=1e-12)


def test_adams_bashforth_has_order_two():
    x_0 = starts(4)
    gaps = [
        float((by_table(Bespoke.adams_bashforth(power(n)), x_0) - exact(1.0, x_0)).abs().max()) for n in (20, 40, 80)
    ]
    assert all(3.5 < a / b < 4.6 for a, b in zip(gaps, gaps[1:]))


def test_an_evaluation_may_count_in_any_later_step():
    """Two steps by hand: x_2 = a x_0 + b_0 v(x_0) + b_1 v(x_1)."""
    table, x_0 = Bespoke.of([0, 0.4, 1], [[0.9, 0.5], [1.1, 0.2, 0.7]]), starts(3)
    x_1 = 0.9 * x_0 + 0.5 * turned(0, x_0)
    wanted = 1.1 * x_0 + 0.2 * turned(0, x_0) + 0.7 * turned(0.4, x_1)
    assert torch.allclose(by_table(table, x_0), wanted, rtol=1e-13)


@pytest.mark.parametrize("n", [3, 5])
def test_learned_numbers_beat_euler_and_adams_bashforth_on_unseen_starts(n):
    """Four numbers describe every map of the plane that A generates, so four evaluations can learn the exact one."""
    x_0, unseen = starts(32), starts(32, seed=1)
    found = fit.search(turned, x_0, lambda t: exact(t, x_0), n, tries=8)

    def error(table):
        return fit.relative_error(by_table(table, unseen), exact(1.0, unseen))

    plain = min(error(make(power(n, p))) for make in (Bespoke.euler, Bespoke.adams_bashforth) for p in (1.0, 1.5, 2.0))
    assert error(found.table) < 0.05 * plain
    assert found.error == pytest.approx(fit.relative_error(by_table(found.table, x_0), exact(1.0, x_0)), rel=1e-6)


def test_the_loss_falls_with_the_search_and_is_that_of_the_regression():
    generator = torch.Generator().manual_seed(3)
    x_0 = torch.randn(64, 3, dtype=torch.float64, generator=generator)

    def bent(t, x):
        return torch.sin(3 * x + 2 * t) - x

    path = solve(lambda t, x: bent(t[:, None], x), x_0, solver="rk4", steps=100, trajectory=True).trajectory

    def teacher(t):
        i = min(int(100 * t), 99)
        return torch.lerp(path[i], path[i + 1], 100 * t - i)

    told = []
    found = fit.search(bent, x_0, teacher, 4, tries=10, on_try=lambda i, error: told.append(error))
    plain = solve(lambda t, x: bent(t[:, None], x), x_0, solver="euler", steps=4).x
    assert found.error == min(told) < told[0] < fit.relative_error(plain, path[-1])
    # each row is numpy's least squares, given the rows before it
    known, x = [x_0], x_0
    for i, row in enumerate(found.table.weights):
        known.append(bent(found.table.times[i], x))
        columns = np.stack([k.numpy().ravel() for k in known], axis=1)
        wanted = np.linalg.lstsq(columns, teacher(found.table.times[i + 1]).numpy().ravel())[0]
        assert np.allclose(columns @ wanted, columns @ np.array(row), atol=1e-3)
        x = bespoke.combine(row, known)


@pytest.mark.parametrize(
    ("times", "weights"),
    [
        ([0, 1], []),
        ([0, 1], [[1, 1, 1]]),
        ([0, 0.5, 0.5], [[1, 1], [1, 1, 1]]),
        ([0, 1], [[1, float("nan")]]),
        ([0, 1], [[1, 1e9]]),
        ([0, 1], [["a", 1]]),
        (None, [[1, 1]]),
        ([0, 1], 3),
    ],
)
def test_what_is_no_solver_is_refused(times, weights):
    with pytest.raises(MuseError, match="solver"):
        Bespoke.of(times, weights)


def test_a_bespoke_solver_needs_its_table():
    x_0, table = starts(1), Bespoke.euler(power(4))
    for options in ({"solver": "bespoke-4"}, {"solver": "bespoke-5", "table": table}):
        with pytest.raises(MuseError, match="needs its table"):
            solve(turned, x_0, **options)
    with pytest.raises(MuseError, match="unknown solver"):
        solve(turned, x_0, solver="euler", table=table)
    names = ("bespoke-8", "bespoke-8@0123abcd", "bespoke-0", "bespoke", "euler", 3)
    assert [bespoke.evaluations(name) for name in names] == [8, 8, None, None, None, None]


# -- learned for a network, kept beside it, used by name


@pytest.fixture(scope="module")
def taught(tiny, smoke_weights, tmp_path_factory):
    """A copy of the tiny weights with solvers of 2 and 3 steps, and the folder of the run that learned them."""
    place = tmp_path_factory.mktemp("taught")
    shutil.copytree(smoke_weights, place / "weights")
    content = learn(Muse.from_pretrained(smoke_weights), tiny.cache, place / "run", TINY, show=lambda text: None)
    learned.write(place / "weights", content)
    return place


@pytest.fixture
def copy(taught, tmp_path):
    return shutil.copytree(taught / "weights", tmp_path / "weights")


def test_a_file_is_read_as_it_was_written(taught):
    content = learned.read(taught / "weights")
    for n, table in content["tables"].items():
        row = content["solvers"][str(n)]
        assert (table.nfe, [list(w) for w in table.weights]) == (n, row["weights"])
        assert 0 < row["error"] < 1 and 0 < row["held_out_error"] < 1
    assert content["guidance_scale"] == 3.0 and content["teacher"] == "euler, 10 steps"


def test_the_teachers_path_is_eulers_and_the_kept_error_is_the_solvers(tiny, smoke_weights, taught):
    muse = Muse.from_pretrained(smoke_weights)
    with torch.inference_mode():
        x = conditions(muse, tiny.cache, 6)
        folder = next(p for p in (taught / "run").iterdir() if p.is_dir())
        others = Pairs(muse, x[4:], TINY, folder, start=4, show=lambda text: pytest.fail("it is kept"))
        end = solve(others.velocities[0], others.x_0, steps=10).x
        assert torch.allclose(others.path(1.0), end, atol=2e-3)  # kept in half precision
        middle = solve(others.velocities[0], others.x_0, grid=[0.0, 0.1, 0.13]).x  # on the straight way of step 2
        assert torch.allclose(others.path(0.13), middle, atol=2e-3)
        content = learned.read(taught / "weights")
        for n, table in content["tables"].items():
            assert others.error(table) == pytest.approx(content["solvers"][str(n)]["held_out_error"], rel=1e-4)


def test_the_same_command_goes_on_where_it_was_stopped(tiny, smoke_weights, taught, tmp_path):
    muse, run = Muse.from_pretrained(smoke_weights), shutil.copytree(taught / "run", tmp_path / "run")
    folder = next(p for p in run.iterdir() if p.is_dir())
    (folder / "bespoke-3-of-3.json").unlink()
    next(folder.glob("paths-0004*")).unlink()
    said = []
    again = learn(muse, tiny.cache, run, TINY, show=said.append)
    assert again["solvers"] == {k: v for k, v in learned.read(taught / "weights")["solvers"].items()}
    assert not any("bespoke-2: grid" in s for s in said) and any("bespoke-3: grid" in s for s in said)


def test_the_command_writes_beside_the_weights_it_learned_for_and_nowhere_else(tiny, smoke_weights, taught, tmp_path):
    class Options:
        init, preset, part, cache, run_folder = smoke_weights, "smoke", "solver", tiny.cache, tmp_path / "run"
        out = shutil.copytree(smoke_weights, tmp_path / "out")

    shutil.copytree(taught / "run", Options.run_folder)
    train_solver(Options, TINY)
    one, two = (learned.read(f)["tables"] for f in (Options.out, taught / "weights"))
    assert one == two
    hashes = json.loads((Options.out / "weights.json").read_text())
    (Options.out / "weights.json").write_text(json.dumps(hashes | {"stage2": "0" * 64}))
    with pytest.raises(MuseError, match="another Stage 2"):
        train_solver(Options, TINY)


def damage(folder, name):
    """One way to spoil the file; returns what must be said."""
    path, hashes = folder / "solver.json", json.loads((folder / "weights.json").read_text())
    if name == "missing":
        path.unlink()
        return "no bespoke solvers.*musekit train solver"
    if name == "altered":
        path.write_text(path.read_text().replace("0.", "1.", 1))
        return "truncated or altered"
    if name == "of another Stage 2":
        hashes["stage2"] = "0" * 64
        (folder / "weights.json").write_text(json.dumps(hashes))
        return "another Stage 2"
    content = json.loads(path.read_text())
    if name == "with a row too few":
        content["solvers"]["3"]["weights"].pop()
    elif name == "with a wrong name":
        content["solvers"]["5"] = content["solvers"]["3"]
    elif name == "a list":
        content = [1]
    learned.write(folder, content)
    return "another number of steps" if name == "with a wrong name" else "holds no bespoke solvers"


@pytest.mark.parametrize(
    "name", ["missing", "altered", "of another Stage 2", "with a row too few", "with a wrong name", "a list"]
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(copy, name):
    said = damage(copy, name)
    with pytest.raises(MuseError, match=said) as caught:
        Muse.from_pretrained(copy).recipe("a flute", 0, Settings(solver="bespoke-3"))
    assert "\n" not in str(caught.value)


def test_what_it_was_not_learned_for_is_refused(copy):
    muse = Muse.from_pretrained(copy)
    for options, said in (
        ({"solver": "bespoke-5"}, "bespoke-3"),
        ({"solver": "bespoke-3", "steps": 7}, "has 3 steps"),
        ({"solver": "bespoke-3", "guidance_scale": 2.0}, "guidance 3"),
        ({"solver": "bespoke-3", "guidance_high": 0.5}, "guidance 3"),
        ({"solver": "bespoke-3@00000000"}, "another solver"),
        ({"stage1_solver": "bespoke-3"}, "unknown solver"),
    ):
        with pytest.raises(MuseError, match=said):
            muse.recipe("a flute", 0, Settings(**options))


def test_a_recipe_names_the_numbers_and_its_bits_do_not_depend_on_mates(copy):
    muse = Muse.from_pretrained(copy)
    some = {"solver": "bespoke-3", "seconds": 0.5}
    pieces = muse.generate("a flute", n=3, seed=5, **some)
    recipe = pieces.recipes[1]
    table = learned.read(copy)["tables"][3]
    assert recipe.stage2_solver == f"bespoke-3@{learned.identity(table)}" and recipe.stage2_steps == 3
    assert pieces.nfe["stage2"] == [3, 3, 3]
    alone = muse.generate("a flute", n=1, seed=6, solver=recipe.stage2_solver, seconds=0.5)
    mixed = [muse.recipe(p, s, Settings(**some)) for p, s in (("an organ", 1), ("a violin", 9), ("a flute", 6))]
    *_, last = muse.stream(mixed)
    assert torch.equal(alone.audio[0], pieces.audio[1]) and torch.equal(last.audio, pieces.audio[1])
    other = muse.generate("a flute", n=1, seed=6, seconds=0.5)
    assert not torch.equal(other.audio[0], alone.audio[0])


def test_other_solvers_bits_do_not_name_the_file(tiny, smoke_weights, copy):
    one, two = (Muse.from_pretrained(f).recipe("a flute", 0, Settings()) for f in (smoke_weights, copy))
    assert one == two


def test_a_saved_system_takes_its_solvers_along(copy, tmp_path):
    Muse.from_pretrained(copy).save_pretrained(tmp_path / "saved")
    assert learned.read(tmp_path / "saved")["tables"] == learned.read(copy)["tables"]
