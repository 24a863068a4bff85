"""Tensors copied into the very bytes of the safetensors file that they become.

So a copy of a network is made once, and nothing is left to serialise: `safetensors.torch.save` would copy all bytes
twice more, and hold Python's lock while it does, 0.7 s for 250 MB.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

# As safetensors names and sorts them: the largest elements first, so that all of them are aligned.
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_TYPES)}


class Packed:
    """One file in memory, filled anew at each call; the memory is kept as long as names and shapes stay."""

    def __init__(self) -> None:
        self._layout: list[tuple[str, torch.dtype, torch.Size]] | None = None
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._views: dict[str, Tensor] = {}

    @property
    def content(self) -> memoryview:
        """The file, as `safetensors.torch.save` would write it; it changes at the next `fill`."""
        return self._bytes.numpy().data

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors, of any device and memory layout. Those of a GPU come when it is synchronised."""
        layout = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if layout != self._layout:
            self._lay_out(tensors)
            self._layout = layout
        for name, tensor in tensors.items():
            self._views[name].copy_(tensor, non_blocking=True)

    def _lay_out(self, tensors: dict[str, Tensor]) -> None:
        header, ends = {}, {}
        end = 0
        for name in sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name.encode())):
            tensor = tensors[name]
            start, end = end, end + tensor.nbytes
            header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            ends[name] = (start, end)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        self._views = {}
        self._bytes = torch.empty(0, dtype=torch.uint8)  # the old ones go before the new ones come
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        self._bytes = torch.empty(first + end, dtype=torch.uint8, pin_memory=on_gpu)
        self._bytes[:first] = torch.frombuffer(bytearray(len(text).to_bytes(8, "little") + text), dtype=torch.uint8)
        for name, (start, stop) in ends.items():
            part = self._bytes[first + start : first + stop]
            self._views[name] = part.view(tensors[name].dtype).view(tensors[name].shape)
