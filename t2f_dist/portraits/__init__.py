"""Portraits drawn by code: the corpus that every t2f-dist checkout carries with it, and the reader of its attributes.

    attributes.py   what a portrait is: eight named attributes and a continuous jitter, from (seed, index)
    palette.py      the colours behind the names
    shapes.py       smooth outlines, tapered strokes, soft spots, on a supersampled canvas
    hair.py         hair, behind and before the face, and the beard
    draw.py         a portrait as pixels, at any resolution
    captions.py     a portrait in words, in a varied grammar
    naming.py       the way back: which attributes a caption names, and as what
    voice.py        a portrait speaking: pitch by sex, formants by sex and head size
    corpus.py       a folder of portraits, captions and voices, for `t2f-dist shard`
    reader.py       attributes read back from pixels by a small network (weights: reader.safetensors)

The reader exists to measure generated faces. It is never used in training.
"""
