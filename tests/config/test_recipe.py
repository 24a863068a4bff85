"""The recipe of shards."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from t2f_dist.config.load import dump, read_yaml, resolve
from t2f_dist.config.recipe import Layout, ShardRecipe, differences
from t2f_dist.shard.corpus import READERS

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
        ({"layout": "birds"}, "layout is 'birds'"),
        ({"layout": ["cub"]}, "layout is"),
        ({"cub": {"embeddings": "e"}}, "the fields of cub belong to the layout cub, and layout is 'folder'"),
        ({"layout": "cub", "captions": "c", "webdataset": {"identity_field": "a"}}, "belong to the layout webdataset"),
        ({"split": {"given": True}}, "split.given is for the layout hdf5"),
        ({"layout": "cub"}, "the layout cub needs captions"),
        ({"layout": "celeba"}, "the layout celeba needs captions"),
        ({"layout": "hdf5", "captions": "c"}, "stand with its images; leave captions out"),
        ({"layout": "webdataset", "speech": "s"}, "the layout webdataset has no voices"),
        ({"layout": "wav2pix", "captions": "c"}, "the layout wav2pix has no captions"),
        ({"layout": "cub", "captions": "c", "cub": {"embeddings": "e"}, "embed": "m"}, "exclude each other"),
    ],
)
def test_what_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        resolve(ShardRecipe, LEAST | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "given", "absent"),
    [("hdf5", "captions", "speech"), ("webdataset", "captions", "speech"), ("wav2pix", "speech", "captions")],
)
def test_what_stands_with_the_images_need_not_be_named(layout: str, given: str, absent: str):
    recipe = resolve(ShardRecipe, LEAST | {"layout": layout})
    assert (recipe.model_dump()[given], recipe.model_dump()[absent]) == ("f", None)
    assert recipe == resolve(ShardRecipe, recipe.model_dump())


@pytest.mark.parametrize(
    ("changes", "brings"),
    [
        ({}, False),
        ({"layout": "hdf5"}, True),
        ({"layout": "hdf5", "hdf5": {"embeddings": False}}, False),
        ({"layout": "hdf5", "embed": "m"}, False),
        ({"layout": "cub", "captions": "c"}, False),
        ({"layout": "cub", "captions": "c", "cub": {"embeddings": "e"}}, True),
    ],
)
def test_when_the_corpus_brings_its_embeddings(changes: dict, brings: bool):
    assert resolve(ShardRecipe, LEAST | changes).brings_embeddings == brings


def test_every_layout_has_a_reader():
    assert set(READERS) == set(get_args(Layout))


def test_the_readme_lists_every_field_with_its_default():
    text = (Path(__file__).parents[2] / "shards/README.md").read_text()
    shown = yaml.safe_load(text.split("\n## The recipe\n")[1].split("```yaml\n")[1].split("```")[0])
    assert resolve(ShardRecipe, shown) == ShardRecipe(faces="lfw", out="shards/lfw")
    for section, fields in ShardRecipe(faces="f", out="o").model_dump().items():
        assert section in shown
        assert not isinstance(fields, dict) or set(fields) == set(shown[section])


def changed(shaping: bool = False, **changes) -> list[str]:
    before = ShardRecipe(faces="f", captions="c", out="o").model_dump(mode="json")
    return differences(
        before, ShardRecipe(**{"faces": "f", "captions": "c", "out": "o"} | changes).model_dump(), shaping
    )


def test_differences_are_named_with_both_values():
    assert changed() == []
    assert changed(seed=2, image={"resolution": 64}) == ["seed 0 -> 2", "image.resolution 128 -> 64"]
    assert changed(image={"allow_upscale": True}) == ["image.allow_upscale false -> true"]
    assert changed(captions=None) == ["captions c -> null"]
    assert changed(faces="x" * 200) == [f"faces f -> {'x' * 77}..."]
    assert differences({"old": 1}, {"new": {"key": 2}}) == ["old 1 -> absent", "new.key absent -> 2"]


def test_places_do_not_shape_a_sample_and_all_else_does():
    assert changed(shaping=True, faces="g", captions="d", text={"caption_column": "x"}, samples_per_shard=5) == []
    assert changed(shaping=True, captions=None) == ["captions c -> null"]
    assert changed(shaping=True, speech="s") == ["speech null -> s"]
    assert changed(shaping=True, identity="stem", text={"min_count": 2}) == [
        "identity auto -> stem",
        "text.min_count 1 -> 2",
    ]
