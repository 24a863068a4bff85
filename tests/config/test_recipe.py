"""The recipe of shards."""

from pathlib import Path

import pytest
import yaml

from t2f_dist.config.load import dump, read_yaml, resolve
from t2f_dist.config.recipe import ShardRecipe

RECIPES = sorted((Path(__file__).parents[2] / "shards/recipes").glob("*.yaml"))
LEAST = {"faces": "f", "out": "o"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_survive_a_dump(path: Path, tmp_path: Path):
    recipe = resolve(ShardRecipe, read_yaml(path), source=path)
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert resolve(ShardRecipe, read_yaml(tmp_path / "again.yaml")) == recipe


def test_there_are_recipes():
    assert len(RECIPES) >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ""}, "an empty path"),
        ({"caption": "x"}, "unknown key caption .did you mean captions"),
        ({"image": {"resolutoin": 64}}, "image.resolutoin .did you mean resolution"),
        ({"image": {"resolution": 48}}, "48 is not a power of two"),
        ({"image": {"resolution": 2048}}, "image.resolution is 2048"),
        ({"image": {"background": "white"}}, "'white' is not a colour"),
        ({"image": {"crop_box": [0.5, 0, 0.5, 1]}}, "is empty"),
        ({"image": {"crop_box": [0, 0, 1, 1], "crop_fraction": 0.5}}, "exclude each other"),
        ({"split": {"validation": 0.5, "test": 0.5}}, "leave nothing to train on"),
        ({"identity": "folders"}, "'folders' is none of"),
        ({"identity": "("}, "not a regular expression"),
        ({"require": "both", "captions": "c"}, "no speech is given"),
        ({"samples_per_shard": 0}, "samples_per_shard is 0"),
    ],
)
def test_what_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        resolve(ShardRecipe, LEAST | changes)
    assert "\n" not in str(error.value)


def test_the_readme_lists_every_field_with_its_default():
    text = (Path(__file__).parents[2] / "shards/README.md").read_text()
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert resolve(ShardRecipe, shown) == ShardRecipe(faces="lfw", out="shards/lfw")
    for section, fields in ShardRecipe(faces="f", out="o").model_dump().items():
        assert section in shown
        assert not isinstance(fields, dict) or set(fields) == set(shown[section])
