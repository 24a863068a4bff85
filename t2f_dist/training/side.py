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

SCALE_FLOOR = 1.0  # of fp16: where the loss itself overflows, a lower scale of it finds nothing


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

    A step whose loss or gradient is not finite is left out, by all ranks and without waiting for the GPU: a loss that
    is not finite makes its gradients so, the exchange carries them to every rank, all see that the norm of what was
    exchanged is no number, and the optimizer then leaves weights and moments as they are.

    Attributes:
        parameters: active ones.
        gradient_norms: of the last step, one for each of `learnt`; those of the parameters that had a gradient.
        bad: bool, whether the last step was left out; the same on all ranks.
        settled: bool, the scale of fp16 was as low as it is tried when the last step began; else, no scale to find.
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
        self.optimizer = torch.optim.Adam(groups, fused=True)  # of its kinds the one that can leave a step out
        self.parameters: list[nn.Parameter] = []
        self.learnt: list[nn.Parameter] = []
        self.gradient_norms = torch.empty(0)
        self.bad = self.settled = torch.zeros((), dtype=torch.bool)
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
            self._settle_buckets(self._wrapped)
        else:
            self._wrapped = active

    def _settle_buckets(self, wrapped: DistributedDataParallel) -> None:
        """DDP lays out its buckets anew after the first backward pass, in the order in which gradients came.

        From three ranks on, the rounding of an exchanged sum depends on its place in a bucket: a run that was wrapped
        again where it went on would differ by a bit from one that was not. So the first pass is one that is the same
        whenever it happens, and changes nothing.
        """
        nothing: Tensor = wrapped(lambda: sum((parameter.sum() * 0 for parameter in self.parameters), torch.zeros(())))
        nothing.backward()
        self.optimizer.zero_grad(set_to_none=True)

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
        """Add up the gradients of a loss; NaN, where it is not finite."""
        ok = loss.detach().isfinite()
        self.scaler.scale(loss * torch.where(ok, 1.0, torch.nan)).backward()

    @property
    def scale(self) -> Tensor:
        """What fp16 multiplies the loss with, a scalar on the device; 1 in the other formats."""
        return self.scaler.scale(torch.ones((), device=self.parameters[0].device))

    def step(self, learning_rate_factor: float) -> dict[str, Tensor]:
        """One step of the optimizer, or none where a gradient is not finite; gradients are cleared.

        Returns scalar tensors: the gradients' norm, and whether the step was left out, 0 or 1.
        """
        at_the_floor = self.scale <= SCALE_FLOOR
        self.scaler.unscale_(self.optimizer)
        self.learnt = [p for p in self.parameters if p.grad is not None]
        self.gradient_norms = torch.stack(torch._foreach_norm([p.grad for p in self.learnt if p.grad is not None]))
        norm = torch.linalg.vector_norm(self.gradient_norms)
        self.bad = ~norm.isfinite()
        # Of a sum that overflows alone, the scaler does not hear.
        self.settled = at_the_floor | (self.bad & self.gradient_norms.isfinite().all())
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor
        # What a GradScaler sets when it steps such an optimizer; it would not see a norm that overflows.
        self.optimizer.found_inf = self.bad.float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        self.scaler.update()
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in self.networks.discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)
        self.optimizer.zero_grad(set_to_none=True)
        return {f"gradient_norm/{self.name}": norm, f"skipped_steps/{self.name}": self.bad.to(norm)}

    def release(self) -> None:
        """Drop the DDP wrapper; it must be gone before its process group."""
        self._wrapped = None
