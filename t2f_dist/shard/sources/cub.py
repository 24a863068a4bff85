"""CUB-200-2011 birds and Oxford-102 flowers, as published for text to image by Reed et al.

Images in class folders (`images/001.Black_footed_Albatross/X.jpg`) or flat (`jpg/image_00001.jpg`); captions in class
folders always: `text_c10/CLASS/STEM.txt`, a caption a line, ten of them. The class is the identity, so that validation
and test hold classes that training has not seen, as in the paper.

Reed, Akata, Schiele, Lee, Learning Deep Representations of Fine-grained Visual Descriptions, CVPR 2016,
arXiv:1605.05395: the captions, and the char-CNN-RNN whose embeddings `cub.embeddings` may name (see `embeddings`).
"""

from collections import defaultdict
from dataclasses import replace

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.sources import Block, Mention, Raw, Refusal, Source, embeddings, folder
from t2f_dist.shard.sources.faces import Faces
from t2f_dist.storage import url


def read(recipe: ShardRecipe) -> Raw:
    """The layout `cub`.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        ValueError: a source is not of its layout, or embeddings are of several sizes.
    """
    faces = Faces(recipe.faces)
    root = folder.existing(recipe.captions, "captions")
    if not folder.is_folder(root):
        raise ValueError(
            f"captions {url.shown(root)}: the layout cub has a folder such as text_c10, with a folder a class"
        )
    mentions = [replace(mention, identity=_class(mention.image)) for mention in folder.read_captions(root).mentions]
    refusals: list[Refusal] = []
    if recipe.cub.embeddings is not None:
        mentions = _embedded(folder.existing(recipe.cub.embeddings, "embeddings"), mentions, refusals)
    return Raw(faces.pictures(), faces.find, Source(root, mentions), folder.voices(recipe), refusals)


def _class(image: str) -> str | None:
    return image.rpartition("/")[0].rpartition("/")[2] or None


def _embedded(root: str, mentions: list[Mention], refusals: list[Refusal]) -> list[Mention]:
    """The mentions with their embeddings; those of an image that has another number of them are refused."""
    by_class: defaultdict[str, defaultdict[str, list[Mention]]] = defaultdict(lambda: defaultdict(list))
    for mention in mentions:
        by_class[mention.identity or ""][mention.image.rpartition("/")[2]].append(mention)
    size: int | None = None
    kept = []
    held = embeddings.Held(root)
    for name, images in sorted(by_class.items()):
        blocks = held.of_class(name, sorted(images))
        for stem in sorted(images):
            if stem not in blocks:
                kept += images[stem]  # refused with the reason that there is none, where captions are looked at
                continue
            block, shape = blocks[stem]
            rows = _rows(images[stem], block, shape, refusals)
            if rows and size not in (None, shape[1]):
                raise ValueError(
                    f"{url.shown(root)}: embeddings of {shape[1]} values for {name}/{stem}, elsewhere of {size}"
                )
            size = shape[1] if rows else size
            kept += rows
    if size is None:
        raise ValueError(
            f"{url.shown(root)} has no embeddings of these captions, a row a line; expected CLASS.npy, .npz, .h5 or "
            "CLASS/STEM.npy"
        )
    return kept


def _rows(mentions: list[Mention], block: Block, shape: tuple[int, ...], refusals: list[Refusal]) -> list[Mention]:
    if len(shape) == 2 and shape[0] == len(mentions):
        return [replace(mention, embedding=(block, row)) for row, mention in enumerate(mentions)]
    reason = f"embeddings {list(shape)} for {len(mentions)} captions of its image, expected [captions, D]"
    refusals += [
        Refusal("captions", "rejected", reason, mention.image, str(mention.value), mention.where)
        for mention in mentions
    ]
    return []
