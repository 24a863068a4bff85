"""From a list of URLs by the real img2dataset to an index to training: nothing of its tars is written anew."""

import functools
import http.server
import json
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.config.condition import Lstm
from t2f_dist.config.index import IndexRecipe
from t2f_dist.data.dataset import Wanted
from t2f_dist.data.image import decode_foreign
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.tars import webdataset_switches
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import index as shard_index
from t2f_dist.shard.manifest import MANIFEST, Manifest
from tests.shard.img2dataset import corpus
from tests.shard.raw import draw
from tests.shard.test_index import indexed

PEER = Path(__file__).resolve().parents[2] / "runs" / "peers" / "img2dataset" / "bin" / "img2dataset"
WANTED = Wanted(modalities={"caption": Lstm()}, mismatched=frozenset({"condition"}))


def read(folder: Path, resolution: int, num: int = 24) -> list:
    samples = IndexedSamples(folder, "train", seed=0, window_shards=16, wanted=WANTED)
    found = [samples[position, resolution] for position in range(num)]
    samples.close()
    return found


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = corpus(tmp_path_factory.mktemp("tars") / "cc3m", num_tars=2)
    for out, levels in (("with", True), ("without", False)):
        split = {"validation": 0, "test": 0}
        indexed(root, root.parent / out, levels=levels, split=split, image={"resolution": 32})
    return root


@pytest.mark.parametrize("resolution", [4, 8, 16, 32])
def test_training_reads_foreign_tars(tars: Path, resolution: int):
    """Through the small files, and without any; the caption is that of the image, the mismatched one another's."""
    right = {}
    for out in ("with", "without"):
        for item in read(tars.parent / out, resolution):
            assert item.image.shape == (3, resolution, resolution) and not item.damage
            tokens = item.condition["caption"].tolist()
            assert tokens != item.mismatched["caption"].tolist() and len(tokens) == 3
            right.setdefault(tuple(tokens), []).append(item.image.astype(int))
    assert len(right) == 24
    for level, decoded in right.values():  # noise, of which a JPEG is decoded at a reduced scale
        assert np.abs(level - decoded).mean() < (2 if resolution == 32 else 12)


def test_a_damaged_byte_changes_one_position(tars: Path, tmp_path: Path):
    root = corpus(tmp_path / "cc3m", num_tars=2)
    out = tmp_path / "out"
    indexed(root, out, levels=False, split={"validation": 0, "test": 0}, image={"resolution": 32})
    before = read(out, 32)
    shard = Manifest.load(out).shards("train")[0]
    record = shard_format.open_index(out / shard.index, shard)[3]
    with open(root / "00000.tar", "r+b") as stream:
        stream.seek(int(record["image_offset"]) + 100)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 4]))
    after = read(out, 32)
    changed = [place for place, (one, other) in enumerate(zip(before, after)) if (one.image != other.image).any()]
    assert len(changed) == 1
    (damage,) = after[changed[0]].damage
    assert (damage.row, damage.reason) == (3, "image: its checksum does not match the index")
    with open(root / "00000.tar", "ab") as stream:
        stream.write(bytes(512))
    with pytest.raises(ValueError, match=r"00000\.tar has \d+ bytes where the manifest says \d+"):
        read(out, 32)


def test_webdataset_is_held_back():
    """Whoever imports the streaming of tars has no shell and no pickle by webdataset either."""
    import webdataset

    assert webdataset_switches.enforce_security
    with pytest.raises(ValueError, match="cannot open pipe"):
        webdataset.gopen("pipe:true")


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="img2dataset is not there; the benchmark of shard building makes it")
def test_the_real_img2dataset(tmp_path: Path):
    rows = ["url,caption,album"]
    for number in range(25):
        draw(tmp_path / "served" / f"{number}.jpg", number, (80, 64))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        place = f"http://127.0.0.1:{server.server_address[1]}"
        rows += [
            f"{place}/{number}.jpg,A face number {number}.,{number // 5}" for number in range(26)
        ]  # one is missing
        (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        line = "--url_list list.csv --input_format csv --url_col url --caption_col caption --output_format webdataset"
        line += " --output_folder tars --image_size 64 --processes_count 1 --thread_count 4 --enable_wandb False"
        line += ' --number_sample_per_shard 10 --save_additional_columns ["album"]'
        environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
        subprocess.run(
            [PEER, *line.split()], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300
        )
        server.shutdown()
        thread.join()
    before = {path.name: path.read_bytes() for path in (tmp_path / "tars").iterdir()}
    assert {"00000.tar", "00000.parquet", "00000_stats.json"} <= set(before)
    recipe = IndexRecipe(
        tars=(str(tmp_path / "tars"),),
        out=str(tmp_path / "tars"),
        identity="album",
        image={"resolution": 32},  # pyright: ignore[reportArgumentType]
        split={"validation": 0.2, "test": 0},  # pyright: ignore[reportArgumentType]
    )
    found = shard_index.index(recipe, 2, progress=False)
    assert {name: (tmp_path / "tars" / name).read_bytes() for name in before} == before
    assert found.manifest.totals["images"].stored == 25 and not found.notes and not found.damaged
    assert json.loads((tmp_path / "tars" / MANIFEST).read_bytes())["image_format"] == "any"
    pictures = set()
    for item in read(tmp_path / "tars", 32, num=found.manifest.num_samples("train")):
        assert not item.damage
        pictures.add(item.image.tobytes())
    assert len(pictures) == found.manifest.num_samples("train")
    with Image.open(tmp_path / "served" / "0.jpg") as image:
        assert image.size == (80, 64)
    assert decode_foreign((tmp_path / "served" / "0.jpg").read_bytes(), 32, recipe.image).shape == (3, 32, 32)
