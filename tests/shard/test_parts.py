"""Shares of a build: in any order, at the same time, again."""

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from t2f_dist import cli
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.build import _Build, build, make
from t2f_dist.shard.corpus import plan
from t2f_dist.shard.ledger import Ledger
from t2f_dist.shard.manner import Manner
from tests.shard.raw import Corpus
from tests.shard.test_build import files
from tests.shard.test_extend import grow
from tests.shard.test_restart import command, finished


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0, 2]])
def test_parts_in_any_order(tmp_path: Path, order: list[int]):
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    reports = [make(recipe, Manner(part=(number, 3), progress=False)) for number in order]
    assert [report.manifest is None for report in reports] == [True] * (len(order) - 1) + [False]
    assert all(report.open for report in reports[:-1])
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=2)
    assert "nothing to do" in make(recipe, Manner(part=(0, 3), progress=False)).note


def test_parts_at_the_same_time(tmp_path: Path):
    """Each a process; all begin and end together."""
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1)
    lines = [command(recipe, tmp_path, "--workers", "1", "--part", f"{number}/4") for number in (0, 1, 2, 3, 3)]
    running = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for line in lines]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 5, said
    assert any("train" in out for out, _ in said)
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=1)


def test_the_rest_without_parts(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    kept = make(recipe, Manner(part=(1, 3), progress=False)).written
    assert make(recipe, Manner(progress=False)).kept == kept
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=2)


def test_more_parts_than_shards(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=4)
    recipe = corpus.recipe(tmp_path / "out")
    reports = [make(recipe, Manner(part=(number, 20), progress=False)) for number in range(20)]
    assert any(report.manifest for report in reports)
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole")


def test_parts_remove_nothing(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=4)
    finished(corpus, tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    before = files(tmp_path / "out")
    with pytest.raises(FileExistsError, match="of a build that is not known.*remove the folder"):
        make(corpus.recipe(tmp_path / "out"), Manner(part=(0, 2), progress=False))
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("extend", [False, True])
def test_parts_that_start_at_once(tmp_path: Path, extend: bool):
    """Each has seen what is there before any begins; one comes when the others have ended."""
    corpus = Corpus(tmp_path / "corpus", people=6)
    recipes = [corpus.recipe(tmp_path / name, samples_per_shard=2) for name in ("out", "whole")]
    if extend:
        for recipe in recipes:
            build(recipe, workers=1, progress=False)
        grow(corpus, people=4)
    parts = [begun(recipes[0], Manner(part=(number, 12), extend=extend, progress=False)) for number in (*range(12), 2)]
    reports = [part.run() for part in parts]
    assert not reports[0].manifest
    assert reports[-1].manifest
    assert reports[-1].note.startswith("nothing to add" if extend else "nothing to do: another part")
    make(recipes[1], Manner(extend=extend, progress=False))
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def begun(recipe: ShardRecipe, manner: Manner) -> _Build:
    ledger = Ledger(recipe.out)
    return _Build(recipe, manner, ledger, ledger.names(), plan(recipe, train=not manner.extend))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"part": (2, 2)}, "--part 2/2: expected I/N"),
        ({"part": (0, 0)}, "--part 0/0"),
        ({"part": (-1, 2)}, "--part -1/2"),
        ({"part": (0, 2), "overwrite": True}, "remove the folder first"),
        ({"extend": True, "overwrite": True}, "exclude each other"),
        ({"workers": 0}, "workers is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_what_is_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        Manner(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["1", "a/b", "1/2/3", "-1/2", "2/2", "1.0/2", "", "/"])
def test_a_part_is_two_numbers(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.main, ["shard", "--faces", "f", "--out", "x", f"--part={part}"])
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"--part {part}: expected I/N with 0 <= I < N, such as 0/8 to 7/8" in error
