"""Does the game still go on? Signs in the log that a run wastes its time, told once each time that they appear.

Nothing here changes the weights. The bounds are far from what a sound run shows: the demo's fakes differ among
themselves from 2.5 (before anything is learnt) down to 0.6 times as much as its reals, and its gradients stay within a
factor of ten.
"""

from __future__ import annotations

from statistics import median
from typing import Literal, NamedTuple

from t2f_dist.training.run.meter import Report

PATIENCE = 3  # reports in a row before anything is said
FIRST_PATIENCE = 10  # of fakes that have never differed: some generators begin with weights so small
COLLAPSED, DIVERSE = 0.2, 0.3  # of the reals' diversity: below is a collapse, above it is over
SAME_SCORES = 1e-2  # of reals and fakes, in units of the score; labels are told apart by 1 or more
VANISHED, BACK = 1e-3, 1e-2  # of a gradient's usual norm, the median of the reports before
SKIPPED, SKIPPED_MOST, SOUND = 0.05, 0.5, 0.01  # of the steps; fp16 tries a scale too high once in 2000 steps


class Alert(NamedTuple):
    title: str  # < 64 characters
    text: str
    level: Literal["WARN", "ERROR"]


class Health:
    """Looks at the report of each log interval. Main rank; what it has seen is not kept over a restart."""

    def __init__(self) -> None:
        self._signs = {"collapse": Sign(FIRST_PATIENCE), "blind": Sign(), "beaten": Sign()}
        # A step that is left out is told at once: the report is over many of them.
        self._skips = {name: Sign(patience=1) for name in ("generator", "discriminator")}
        self._norms: dict[str, list[float]] = {"generator": [], "discriminator": []}

    def see(self, report: Report, images_seen: int) -> list[Alert]:
        """What is to be told now; a sign is told again only after it was gone."""
        means = report.means
        found = [self._collapse(means), self._dead_discriminator(means), self._beaten_generator(means)]
        found += [self._skipped(means, network) for network in self._skips]
        return [alert._replace(text=f"at {images_seen:,} images: {alert.text}") for alert in found if alert]

    def _collapse(self, means: dict[str, float]) -> Alert | None:
        if not means.get("diversity/real") or "diversity/fake" not in means:
            return None
        share = means["diversity/fake"] / means["diversity/real"]
        if share > DIVERSE:
            self._signs["collapse"].patience = PATIENCE
        if not self._signs["collapse"].see(share < COLLAPSED, share > DIVERSE):
            return None
        return Alert(
            "Mode collapse",
            f"the fakes of a group differ among themselves {share:.0%} as much as its reals do. Look at the grids; go"
            " back to a checkpoint before it with lower learning rates, or a penalty of more weight",
            "ERROR",
        )

    def _dead_discriminator(self, means: dict[str, float]) -> Alert | None:
        """It tells nothing apart, and learns nothing."""
        share = self._of_usual("discriminator", means)
        if share is None or "score/real" not in means or "score/fake" not in means:
            return None
        gap = abs(means["score/real"] - means["score/fake"])
        dead = gap < SAME_SCORES and share < VANISHED
        if not self._signs["blind"].see(dead, gap > 2 * SAME_SCORES or share > BACK):
            return None
        return Alert(
            "Dead discriminator",
            f"reals and fakes score the same ({means['score/real']:.3g}, {means['score/fake']:.3g}), and the"
            f" discriminator's gradient is {share:.1g} of what it was: it will not learn again. Go back to a checkpoint"
            " before it with a lower learning rate of the discriminator",
            "ERROR",
        )

    def _beaten_generator(self, means: dict[str, float]) -> Alert | None:
        """The discriminator is so sure that nothing comes through to the generator."""
        share = self._of_usual("generator", means)
        if share is None or not self._signs["beaten"].see(share < VANISHED, share > BACK):
            return None
        return Alert(
            "The generator's gradient is nothing",
            f"it is {share:.1g} of what it was: the discriminator wins so clearly that the generator learns nothing."
            " Lower its learning rate, or give it a penalty or augmentation",
            "ERROR",
        )

    def _of_usual(self, network: str, means: dict[str, float]) -> float | None:
        """A gradient's norm, as a share of its median in the reports before; these become what is usual, if sound."""
        norm, before = means.get(f"gradient_norm/{network}"), self._norms[network]
        if norm is None:
            return None
        share = norm / median(before) if before and median(before) else None
        if norm and (share is None or share > VANISHED):
            before.append(norm)
        return share

    def _skipped(self, means: dict[str, float], network: str) -> Alert | None:
        share = means.get(f"skipped_steps/{network}")
        if share is None or not self._skips[network].see(share > SKIPPED, share < SOUND):
            return None
        return Alert(
            f"Steps of the {network} are left out",
            f"{share:.1%} of them, for their loss or gradient was no finite number. They change nothing; where they"
            " stay, lower the learning rate, or in fp16 use bf16",
            "ERROR" if share > SKIPPED_MOST else "WARN",
        )


class Sign:
    """Something that is told once it holds for `patience` reports in a row, and again only after it was gone."""

    def __init__(self, patience: int = PATIENCE):
        self.patience = patience
        self._reports = 0
        self._told = False

    def see(self, holds: bool, gone: bool) -> bool:
        """Whether to tell it now. Between `holds` and `gone` nothing changes."""
        if gone:
            self._reports, self._told = 0, False
        elif holds:
            self._reports += 1
        else:
            self._reports = 0
        told, self._told = self._told, self._told or self._reports >= self.patience
        return self._told and not told
