"""What a run minimises: from log-probabilities of examples to a summed loss and the numbers beside it.

The losses are those of TRL 1.16 (`trl/trainer/dpo_trainer.py`, `kto_trainer.py`), and tests hold them
equal to it. A mean over the step's pairs or answers is a sum here, which the loop divides by how many there
are over all passes and workers: so the loss does not depend on how a step is cut into passes. TRL's means
are of one device's batch. Three terms look at other examples than their own: the estimate of kto, and the
sorting of aot and aot_unpaired. They are taken over the whole step, in passes without a gradient before it.

Left out, for each needs more than summed log-probabilities: WPO's weights (`use_weighting`), LD-DPO's
(`ld_alpha`), and a reference that moves (`sync_ref_model`). TRL's loss `sft` is `dpo.sft_weight`.

Shapes: E examples of a pass, P pairs of a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raymill.train.batches import Batch, Share
from raymill.train.methods import DpoConfig, DpoLoss, KtoConfig

if TYPE_CHECKING:
    from raymill.train.loop import Engine

Facts = Mapping[str, Tensor]
Result = tuple[Tensor, Mapping[str, Tensor]]


class Objective(Protocol):
    """The seam between the loop and a method."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of the sums beside the loss."""
        ...

    @property
    def compares(self) -> bool:
        """Whether reference log-probabilities are needed, and dropout must be off."""
        ...

    def prepare(self, engine: Engine, share: Share) -> Share:
        """Called before each step, on every worker: the share, with what must be known of the whole step."""
        ...

    def __call__(self, logps_E: Tensor, facts: Facts) -> Result:
        """Summed loss and metrics of one pass."""
        ...

    def told(self, sums: Mapping[str, float], counted: int) -> Mapping[str, float]:
        """What a step's event says beside the loss, from the sums over the whole step."""
        ...


class TokenLoss:
    """Cross entropy: pre-training, and tuning on answers."""

    metrics: Sequence[str] = ()
    compares = False

    def prepare(self, engine: Engine, share: Share) -> Share:  # noqa: ARG002
        return share

    def __call__(self, logps_E: Tensor, facts: Facts) -> Result:  # noqa: ARG002
        return -logps_E.sum(), {}

    def told(self, sums: Mapping[str, float], counted: int) -> Mapping[str, float]:  # noqa: ARG002
        return {}


class Pairs:
    """The two sides of a pass's pairs, as the losses see them."""

    def __init__(self, logps_E: Tensor, facts: Facts, config: DpoConfig) -> None:
        ratios_E = logps_E - facts["reference_E"]
        scores_E = score_of(ratios_E, config)
        self.better, self.worse = ratios_E[facts["better_P"]], ratios_E[facts["worse_P"]]
        self.margin = scores_E[facts["better_P"]] - scores_E[facts["worse_P"]]
        mean_E = scores_E / facts["tokens_E"].clamp(min=1)
        self.mean_margin = mean_E[facts["better_P"]] - mean_E[facts["worse_P"]]
        self.config = config
        self.facts = facts


def score_of(ratios_E: Tensor, config: DpoConfig) -> Tensor:
    """f'(ratio) for the divergence f (f-DPO, arXiv 2309.16240)."""
    match config.divergence:
        case "reverse_kl":
            return ratios_E
        case "forward_kl":
            return 1 - torch.exp(-ratios_E)
        case "js_divergence":
            return math.log(2) + logsigmoid(ratios_E)
        case "alpha_divergence":
            power = config.divergence_alpha - 1
            if abs(power) < 1e-6:
                return ratios_E
            # exp of more than 80 is no fp32 number.
            return (torch.exp((power * ratios_E).clamp(max=80.0)) - 1) / power


def robust(pairs: Pairs) -> Tensor:
    """arXiv 2403.00409: unbiased when a share of the labels is flipped."""
    share, margin = pairs.config.label_smoothing, pairs.config.beta * pairs.margin
    return (-(1 - share) * logsigmoid(margin) + share * logsigmoid(-margin)) / (1 - 2 * share)


def exo_pair(pairs: Pairs) -> Tensor:
    """arXiv 2402.00856, equation 16."""
    share, margin = pairs.config.label_smoothing, pairs.config.beta * pairs.margin
    better = torch.sigmoid(margin) * (logsigmoid(margin) - math.log1p(-share))
    return better + torch.sigmoid(-margin) * (logsigmoid(-margin) - math.log(share))


def nca_pair(pairs: Pairs) -> Tensor:
    """arXiv 2402.05369."""
    better, worse = pairs.config.beta * pairs.better, pairs.config.beta * pairs.worse
    return -logsigmoid(better) - 0.5 * logsigmoid(-better) - 0.5 * logsigmoid(-worse)


def sppo_hard(pairs: Pairs) -> Tensor:
    """arXiv 2405.00675, equation 4.7 with certain winners."""
    half = 0.5 / pairs.config.beta
    return (pairs.better - half) ** 2 + (pairs.worse + half) ** 2


def smoothed(pairs: Pairs, delta_P: Tensor) -> Tensor:
    share, delta = pairs.config.label_smoothing, pairs.config.beta * delta_P
    return -logsigmoid(delta) * (1 - share) - logsigmoid(-delta) * share


def aot(pairs: Pairs) -> Tensor:
    """arXiv 2406.05882, paired: the k-th largest margin of the step against the k-th largest of the reference."""
    reference = pairs.facts["reference_E"]
    own = reference[pairs.facts["better_P"]] - reference[pairs.facts["worse_P"]]
    return smoothed(pairs, pairs.better - pairs.worse + own - pairs.facts["aot_P"])


def aot_unpaired(pairs: Pairs) -> Tensor:
    """The same, unpaired: the k-th best of the better answers against the k-th best of the worse."""
    mine = smoothed(pairs, pairs.better - pairs.facts["aot_better_P"])
    theirs = smoothed(pairs, pairs.facts["aot_worse_P"] - pairs.worse)
    # Each pass sees one side of a sorted pair; the other side's gradient comes with its own pass.
    return mine + theirs - theirs.detach()


def apo_zero(pairs: Pairs) -> Tensor:
    """arXiv 2408.06266, equation 7."""
    beta = pairs.config.beta
    return 1 - torch.sigmoid(beta * pairs.better) + torch.sigmoid(beta * pairs.worse)


def apo_down(pairs: Pairs) -> Tensor:
    """arXiv 2408.06266, equation 8."""
    beta = pairs.config.beta
    return torch.sigmoid(beta * pairs.better) + 1 - torch.sigmoid(beta * (pairs.better - pairs.worse))


def discopop(pairs: Pairs) -> Tensor:
    """arXiv 2406.08414, equation 5."""
    margin = pairs.config.beta * pairs.margin
    share = torch.sigmoid(margin / pairs.config.discopop_tau)
    return -logsigmoid(margin) * (1 - share) + torch.exp(-margin) * share


LOSSES: Mapping[DpoLoss, Callable[[Pairs], Tensor]] = {
    "sigmoid": lambda pairs: -logsigmoid(pairs.config.beta * pairs.margin),
    "sigmoid_norm": lambda pairs: -logsigmoid(pairs.config.beta * pairs.mean_margin),
    "hinge": lambda pairs: torch.relu(1 - pairs.config.beta * pairs.margin),
    "ipo": lambda pairs: (pairs.mean_margin - 1 / (2 * pairs.config.beta)) ** 2,
    "robust": robust,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": lambda pairs: (
        -logsigmoid(pairs.config.beta * pairs.better) - logsigmoid(-pairs.config.beta * pairs.worse)
    ),
    "sppo_hard": sppo_hard,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
}


class PairLoss:
    """dpo: a weighted sum of losses over pairs; each adds up what TRL averages."""

    metrics = ("reward_better", "reward_worse", "reward_margin", "reward_accuracy")
    compares = True

    def __init__(self, config: DpoConfig) -> None:
        self._config = config
        self._sorts = [loss for loss in config.loss if loss in ("aot", "aot_unpaired")]

    def prepare(self, engine: Engine, share: Share) -> Share:
        """For aot: the values of the whole step, sorted, of which each pair meets one."""
        if not self._sorts:
            return share
        # Rows: log-ratios of the better answers, of the worse, and the reference's own margins.
        values_3S = torch.zeros(3, share.counted, device=engine.device)
        for batch in share.passes:
            facts = {name: torch.from_numpy(values).to(engine.device) for name, values in batch.facts.items()}
            slots, better, worse = facts["slots_P"], facts["better_P"], facts["worse_P"]
            ratios_E = engine.score(batch) - facts["reference_E"]
            values_3S[0, slots], values_3S[1, slots] = ratios_E[better], ratios_E[worse]
            values_3S[2, slots] = facts["reference_E"][better] - facts["reference_E"][worse]
        better_S, worse_S, reference_S = engine.total(values_3S)
        opposites = {
            "aot_P": met(better_S - worse_S + reference_S, reference_S),
            "aot_better_P": met(better_S, worse_S),
            "aot_worse_P": met(worse_S, better_S),
        }
        return share._replace(passes=[with_slots(batch, opposites) for batch in share.passes])

    def __call__(self, logps_E: Tensor, facts: Facts) -> Result:
        pairs = Pairs(logps_E, facts, self._config)
        losses = [weight * LOSSES[name](pairs).sum() for name, weight in self._config.loss.items()]
        loss = torch.stack(losses).sum()
        if self._config.sft_weight:
            loss = loss - self._config.sft_weight * facts["sft_scale"] * logps_E[facts["better_P"]].sum()
        better, worse = self._config.beta * pairs.better, self._config.beta * pairs.worse
        return loss, {
            "reward_better": better.sum(),
            "reward_worse": worse.sum(),
            "reward_margin": (better - worse).sum(),
            "reward_accuracy": (better > worse).float().sum(),
        }

    def told(self, sums: Mapping[str, float], counted: int) -> Mapping[str, float]:
        return {name: value / max(1, counted) for name, value in sums.items()}


def met(mine_S: Tensor, theirs_S: Tensor) -> Tensor:
    """For each of mine, the one of theirs with the same rank."""
    return theirs_S.sort().values[mine_S.argsort().argsort()]


def with_slots(batch: Batch, opposites: Mapping[str, Tensor]) -> Batch:
    found = {name: values.cpu().numpy()[batch.facts["slots_P"]] for name, values in opposites.items()}
    return batch._replace(facts={**batch.facts, **found})


class AnswerLoss:
    """kto: answers that are good or bad, against an estimate of how far the model has moved."""

    metrics = ("reward_good", "reward_bad", "good", "kl")
    compares = True

    def __init__(self, config: KtoConfig) -> None:
        self._config = config
        self.estimates = config.loss == "kto"

    def prepare(self, engine: Engine, share: Share) -> Share:
        """The mean log-ratio of mismatched answers over the whole step, not below 0, without a gradient."""
        summed = torch.zeros(1, device=engine.device)
        for batch in share.probes:
            reference_E = torch.from_numpy(batch.facts["reference_E"]).to(engine.device)
            summed += (engine.score(batch) - reference_E).sum()
        moved = (engine.total(summed) / share.counted).clamp(min=0)[0].cpu().numpy()
        return share._replace(
            passes=[batch._replace(facts={**batch.facts, "kl": moved}) for batch in share.passes]
        )

    def __call__(self, logps_E: Tensor, facts: Facts) -> Result:
        ratios_E, good_E, config = logps_E - facts["reference_E"], facts["good_E"], self._config
        if self.estimates:
            good_losses = 1 - torch.sigmoid(config.beta * (ratios_E - facts["kl"]))
            bad_losses = 1 - torch.sigmoid(config.beta * (facts["kl"] - ratios_E))
        else:
            good_losses = 1 - torch.sigmoid(config.beta * ratios_E)
            bad_losses = torch.sigmoid(config.beta * ratios_E)
        loss = (
            config.desirable_weight * (good_losses * good_E)
            + config.undesirable_weight * (bad_losses * (1 - good_E))
        ).sum()
        rewards_E = config.beta * ratios_E
        return loss, {
            "reward_good": (rewards_E * good_E).sum(),
            "reward_bad": (rewards_E * (1 - good_E)).sum(),
            "good": good_E.sum(),
            "kl": facts["kl"] * len(good_E),
        }

    def told(self, sums: Mapping[str, float], counted: int) -> Mapping[str, float]:
        good, bad = sums["good"], counted - sums["good"]
        found = {"kl": sums["kl"] / max(1, counted)}
        if good:
            found["reward_good"] = sums["reward_good"] / good
        if bad:
            found["reward_bad"] = sums["reward_bad"] / bad
        if good and bad:
            found["reward_margin"] = found["reward_good"] - found["reward_bad"]
        return found
