"""One side of the game: its active layers, its optimizer, and the exchange of its gradients over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from t2f_dist.config.schema import Adam, Config
from t2f_dist.models.networks import Networks
from t2f_dist.training.precision import Precision


class _Active(nn.Module):
    """The layers that a phase trains. Its forward calls any function, so that DDP sees whatever uses the layers."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def _group(parameters: Iterable[nn.Parameter], adam: Adam, factor: float = 1.0) -> dict[str, Any]:
    rate = adam.learning_rate * factor
    betas = (adam.beta_1, adam.beta_2)
    return {"params": list(parameters), "lr": rate, "base_lr": rate, "betas": betas, "eps": adam.eps}


class Side:
    """ "generator" or "discriminator", with the condition's encoders on whichever side trains them.

    Only active layers require gradients and take part in the exchange: DDP is wrapped anew when a block comes in or an
    old image layer goes out, a few milliseconds a few times in a run. All ranks call `activate`, `backward` and `step`
    together.
    """

    def __init__(self, name: str, networks: Networks, config: Config, precision: Precision, world_size: int):
        self.name = name
        self.networks = networks
        self.world_size = world_size
        self.scaler = precision.scaler()
        self.weight_clip = config.loss.weight_clip if name == "discriminator" else None
        own: list[nn.Module] = [networks.generator.conditioning, networks.generator.synthesis]
        if name == "discriminator":
            own = [networks.discriminator]
        adam = config.optimizer.generator if name == "generator" else config.optimizer.discriminator
        layers = [*own, *networks.heads(name)]
        groups = [_group((parameter for layer in layers for parameter in layer.parameters()), adam)]
        if networks.encoder_trained_by == name:
            for modality, section in config.condition.modalities.items():
                parameters = networks.generator.encoder.parameters_of(modality)
                groups.append(_group(parameters, config.optimizer.condition, section.learning_rate_factor))
        self.optimizer = torch.optim.Adam(groups)
        self.parameters: list[nn.Parameter] = []  # active ones
        self._wrapped: nn.Module | None = None

    def activate(self, resolution: int, fading: bool) -> None:
        """Make the layers of a phase the ones that are trained and exchanged."""
        self._wrapped = None  # before the new one: an old wrapper's hooks must not see new gradients
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
                parameter.grad = None
        active = _Active(self.networks.active(self.name, resolution, fading))
        active.requires_grad_()
        self.parameters = list(active.parameters())
        if self.world_size > 1:
            # No buffers to keep equal; broadcasting them would also modify tensors between forward and backward.
            self._wrapped = DistributedDataParallel(active, broadcast_buffers=False, gradient_as_bucket_view=True)
        else:
            self._wrapped = active

    @property
    def exchanged_bytes(self) -> int:
        """Bytes of gradients that a rank contributes to each exchange."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)`, whose backward pass then exchanges the gradients of this side's active layers."""
        assert self._wrapped is not None, "activate comes first"
        return self._wrapped(function, *args)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of one part of a batch: only the last part exchanges gradients."""
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Gradients flow through the layers, not into them."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, learning_rate_factor: float) -> dict[str, Tensor]:
        """One step of the optimizer; gradients are cleared.

        Returns the gradients' norm, a scalar tensor; in fp16 also whether the step was skipped, 0 or 1, since the
        scaler tries scales that overflow now and then: such a step counts with a norm of 0.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in self.networks.discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)
        self.optimizer.zero_grad(set_to_none=True)
        if not self.scaler.is_enabled():
            return {f"gradient_norm/{self.name}": norm}
        finite = norm.isfinite()
        return {
            f"gradient_norm/{self.name}": torch.where(finite, norm, torch.zeros_like(norm)),
            f"skipped_steps/{self.name}": (~finite).float(),
        }

    def release(self) -> None:
        """Drop the DDP wrapper; it must be gone before its process group."""
        self._wrapped = None
