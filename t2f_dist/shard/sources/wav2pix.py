"""wav2pix: a folder a speaker, with face crops and the second of speech that was spoken with each.

Duarte et al., Wav2Pix: Speech-conditioned Face Generation using Generative Adversarial Networks, ICASSP 2019,
arXiv:1903.10195. A crop and its voice stand in the same folder and have the same name, or the same number at its end:
`cropped_face_frame_13955.png` and `preprocessed_frame_13955.wav`. The speaker, the first folder, is the identity.

The crops are JPEG files named .png, written with red and blue exchanged: see `image.swap_red_blue`.
"""

import re
from collections import defaultdict
from dataclasses import replace

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.sources import AUDIO_SUFFIXES, IMAGE_SUFFIXES, Ambiguous, Raw, bare, folder
from t2f_dist.shard.sources.faces import Faces
from t2f_dist.storage import url


def read(recipe: ShardRecipe) -> Raw:
    """The layout `wav2pix`.

    Raises:
        FileNotFoundError: a folder of the recipe does not exist.
        ValueError: no image or no voice in it.
    """
    faces = Faces(recipe.faces)
    pictures = {
        path: replace(picture, identity=path.partition("/")[0] if "/" in path else None)
        for path, picture in faces.pictures().items()
    }
    root = folder.existing(recipe.speech, "speech")
    if not folder.is_folder(root):
        raise ValueError(f"speech {url.shown(root)}: the layout wav2pix has a folder with a folder a speaker")
    found = folder.read_voices(root)
    mentions = [replace(mention, image=str(mention.value)) for mention in found.mentions]
    return Raw(pictures, _finder(faces.paths), voices=replace(found, mentions=mentions))


def _finder(paths: list[str]):
    named: defaultdict[str, list[str]] = defaultdict(list)
    numbered: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path in paths:
        stem = bare(path, IMAGE_SUFFIXES)
        named[stem].append(path)
        numbered[_number(stem)].append(path)

    def find(voice: str, _: str) -> str | None:
        stem = bare(voice, AUDIO_SUFFIXES)
        fitting = named.get(stem) or (numbered.get(_number(stem)) if _number(stem)[1] else None) or []
        if len(fitting) > 1:
            raise Ambiguous(f"fits {len(fitting)} images ({', '.join(fitting[:2])})")
        return fitting[0] if fitting else None

    return find


def _number(stem: str) -> tuple[str, str]:
    """The folder, and the digits at the end of the name."""
    parent, _, name = stem.rpartition("/")
    digits = re.search(r"[0-9]*$", name)
    return parent, digits.group() if digits else ""
