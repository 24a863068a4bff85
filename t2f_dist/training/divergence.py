"""A network whose steps are left out again and again: which parameters, which terms, which samples.

A step that is left out now and then is counted and forgotten. Many in a row mean that the weights themselves lead to
what is no number: then the run has to go back to a checkpoint.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Samples
from t2f_dist.data.order import Place
from t2f_dist.training.gan import Gan
from t2f_dist.training.launch.ranks import Ranks

LAG = 2  # steps after which a GPU's answer is read: it has long been there, so nothing waits
NAMED = 3  # parameters, terms and samples that are named; the others are counted
REPORT_BYTES = 2000  # of a rank
SUSPECTS = {  # the first that holds is the nearest to the cause: a group of images shares what follows
    "condition": "whose condition comes out as no number",
    "real": "whose score is no number",
    "mismatched": "with which, as the mismatched ones, the score is no number",
    "fake": "whose fake has a score that is no number",
}


class Diverged(ValueError):
    """A network was skipped so often in a row that going on makes no sense. All ranks raise it at the same step.

    Attributes:
        network: "generator" or "discriminator".
        images_seen: before the first of the steps that were left out: the weights are of before it.
        report: which parameters, terms and samples, of all ranks.
    """

    def __init__(self, network: str, images_seen: int, num_steps: int, report: str):
        self.network, self.images_seen, self.report = network, images_seen, report
        super().__init__(
            f"{num_steps} step{'s' * (num_steps > 1)} of the {network} in a row, from {images_seen:,} images on, were"
            f" left out, for their loss or gradient is no finite number: {report}. Start anew in another folder (--run)"
            " with lower learning rates, and look at the samples that are named"
        )


@dataclass
class _Step:
    """What is needed to say what went wrong in a step of one network, as tensors on the device."""

    network: str
    images_seen: int
    answer: Tensor  # bool [2], on the CPU, once it is there: left out, and it counts
    ready: torch.cuda.Event | None
    learnt: list[nn.Parameter]
    gradient_norms: Tensor  # of these
    terms: dict[str, Tensor]
    suspects: dict[str, Tensor]
    batch: tuple[Tensor, Tensor]  # places and mismatched places, [N, 2]


class Divergence:
    """Watches over both networks. Every rank calls `watch` after each step.

    The scaler of fp16 looks for its scale by steps that are left out: they count from where the scale has come down to
    1, which is 16 halvings from where it begins.

    Args:
        limit: steps left out in a row that are too many.
        ranks: of this launch.
        samples: those that are trained on, for their names.
    """

    def __init__(self, limit: int, ranks: Ranks, samples: Samples):
        self.limit, self.ranks, self.samples = limit, ranks, samples
        self._waiting: deque[list[_Step]] = deque()
        self._counts = {"generator": 0, "discriminator": 0}
        self._first: dict[str, _Step] = {}  # of the row of steps that were left out

    def watch(self, gan: Gan, batch: Batch, metrics: dict[str, Tensor], images_seen: int) -> None:
        """Look at the step that began at `images_seen` with this rank's `batch`; on a GPU, at one of two steps ago.

        Raises Diverged, on all ranks at the same step: what it looks at is of the exchanged gradients.
        """
        self._waiting.append([
            _step(gan, side.name, batch, metrics, images_seen)
            for side in gan.sides
            if f"skipped_steps/{side.name}" in metrics  # it had its turn
        ])  # fmt: skip
        self._look(gan, LAG if gan.device.type == "cuda" else 0)

    def settle(self, gan: Gan) -> bool:
        """Look at all steps so far, which waits for a GPU. Whether the state is worth keeping: no row is going on.

        Raises Diverged as `watch` does.
        """
        self._look(gan, 0)
        return not any(self._counts.values())

    def give_up(self, gan: Gan) -> NoReturn:
        """Raise Diverged for the row that is going on, however short. All ranks call."""
        raise self._diverged(gan, max(self._counts, key=lambda network: self._counts[network]))

    def _look(self, gan: Gan, lag: int) -> None:
        while len(self._waiting) > lag:
            for step in self._waiting.popleft():
                self._judge(gan, step)

    def _judge(self, gan: Gan, step: _Step) -> None:
        if step.ready is not None:
            step.ready.synchronize()
        left_out, counts = step.answer.tolist()
        if not left_out:
            self._counts[step.network] = 0
            self._first.pop(step.network, None)
            return
        self._first.setdefault(step.network, step)
        self._counts[step.network] += counts
        if self._counts[step.network] >= self.limit:
            raise self._diverged(gan, step.network)

    def _diverged(self, gan: Gan, network: str) -> Diverged:
        first = self._first[network]
        report = f"{_parameters(gan, first)}; {self._gathered(self._of_this_rank(first))}"
        return Diverged(network, first.images_seen, self._counts[network], report)

    def _of_this_rank(self, step: _Step) -> str:
        """Its terms and samples."""
        values = {name: float(term) for name, term in step.terms.items()}
        terms = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        found = [f"{_some(terms)}"] if terms else []
        places, mismatched = (places.tolist() for places in step.batch)
        for what, told in SUSPECTS.items():
            rows = step.suspects[what].cpu().nonzero().flatten().tolist() if what in step.suspects else []
            if rows:
                named = mismatched if what == "mismatched" else places
                if len(rows) == len(places):
                    told = f"{told} (all of its share)"
                found.append(f"samples {told}: {_some([self._name(named[row]) for row in rows])}")
                break
        return "; ".join(found)

    def _name(self, place: list[int]) -> str:
        return self.samples.name_of(Place(*place))

    def _gathered(self, own: str) -> str:
        """What each rank has to say. All ranks call."""
        content = own.encode()[:REPORT_BYTES]
        padded = torch.zeros(REPORT_BYTES, dtype=torch.uint8)
        padded[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
        told = []
        for rank, row in enumerate(self.ranks.gather(padded)):
            text = bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore")
            if text:
                told.append(f"rank {rank}: {text}")
        return " | ".join(told) or "no term and no score of any rank: the gradient overflowed on its way back"


def _step(gan: Gan, network: str, batch: Batch, metrics: dict[str, Tensor], images_seen: int) -> _Step:
    side = next(side for side in gan.sides if side.name == network)
    prefixes = (f"{network}/", "condition/") if gan.networks.encoder_trained_by == network else (f"{network}/",)
    flags = torch.stack([side.bad, side.settled.to(side.bad.device)])
    answer, ready = flags, None
    if flags.is_cuda:
        answer = torch.empty(2, dtype=torch.bool, pin_memory=True)
        answer.copy_(flags, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
    return _Step(
        network=network,
        images_seen=images_seen,
        answer=answer,
        ready=ready,
        learnt=side.learnt,
        gradient_norms=side.gradient_norms,
        terms={name: term for name, term in metrics.items() if name.startswith(prefixes)},
        suspects=gan.suspects,
        batch=(batch.places, batch.mismatched_places),
    )


def _parameters(gan: Gan, step: _Step) -> str:
    """Those whose gradient is not finite, in the order of the network; of none, the largest."""
    names = {id(parameter): name for name, parameter in gan.networks.named_parameters()}
    norms = {names[id(p)]: norm for p, norm in zip(step.learnt, step.gradient_norms.tolist(), strict=True)}
    bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if not bad:
        largest = max(norms, key=lambda name: norms[name])
        return f"the gradients' norm overflows, that of {largest} alone is {norms[largest]:.3g}"
    return f"the gradient of {_some(bad)}, {len(bad)} of {len(norms)} parameters, is not finite"


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
