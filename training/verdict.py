"""Decides whether the candidate replaces production, from reviewed disagreements.

    disagreements drawn at random -> reviewed one by one -> wins, losses, ties -> evidence -> verdict

A disagreement is an item that both versions were scored on and answered differently. The candidate *wins* it when only
the candidate is right, *loses* it when only production is right, and *ties* when neither is. Of numbers, the nearer one
wins.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from scipy.special import betainc, betaln

# Both sides of the prior on the share of wins are halves of Beta(5, 5). Of 0.5, 1, 2, 5, 10, 20 and 40 it asked for the
# fewest reviews at a share of 0.65, and was within 2 reviews of the best from 0.55 to 0.8 (alpha 0.05, cap 400).
PRIOR = 5.0

# How firmly the prior of `sample_ratio_mismatch` sits on the promised share, counted in subjects.
SHARE_PRIOR = 1000.0

_LARGEST_LOG = 700.0  # exp(710) overflows


class Outcome(StrEnum):
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    KEEP = "keep"
    WAIT = "wait"


@dataclass(frozen=True)
class Verdict:
    """What to do, why, and the counts and evidence it rests on."""

    outcome: Outcome
    reason: str
    wins: int
    losses: int
    ties: int
    evidence_better: float
    evidence_worse: float

    @property
    def share_of_wins(self) -> float:
        """Wins among wins and losses. Undefined, and therefore `nan`, when there are neither."""
        decisive = self.wins + self.losses
        return self.wins / decisive if decisive else math.nan


def decide(
    *,
    wins: int,
    losses: int,
    ties: int = 0,
    alpha: float = 0.05,
    cap: int = 400,
    minimum: int = 20,
    blocked: str | None = None,
) -> Verdict:
    """The verdict after so many reviewed disagreements; ask as often as you like.

    However often one looks, a candidate that is no better is promoted with probability at most `alpha`, and one that is
    no worse is rolled back with probability at most `alpha` (0.030 each by exact calculation at the defaults, when the
    two are equally good). At the `cap` of reviews, ties included, production is kept: the candidate has to earn its
    place. With fewer than `minimum` wins and losses, or while a guardrail has it `blocked`, the answer is to wait.

    Power: where the versions disagree on 10% of items and the candidate is 3 points better, so that it wins 65% of the
    decisive ones, it is promoted before the cap with probability 0.9997, after 79 wins and losses on average. One point
    better (55%): 0.34. Two points (60%): 0.92.

    Holds if every disagreement had the same chance of being drawn, and what is drawn is reviewed whether or not it
    looks like a win. Ties spend reviews but carry no evidence.

    Raises ValueError for negative counts, an alpha outside (0, 1), or a minimum that is not within 1 to cap.
    """
    if min(wins, losses, ties) < 0:
        raise ValueError(f"counts cannot be negative: wins {wins}, losses {losses}, ties {ties}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, not {alpha}")
    if not 1 <= minimum <= cap:
        raise ValueError(f"minimum must lie between 1 and the cap of {cap}, not {minimum}")
    better, worse = evidence(wins, losses), evidence(losses, wins)
    decisive, reviewed = wins + losses, wins + losses + ties
    enough = decisive >= minimum
    if blocked is not None:
        outcome, reason = Outcome.WAIT, blocked
    elif enough and better >= 1 / alpha:
        outcome, reason = Outcome.PROMOTE, f"the candidate won {wins} of {decisive}"
    elif enough and worse >= 1 / alpha:
        outcome, reason = Outcome.ROLL_BACK, f"the candidate lost {losses} of {decisive}"
    elif reviewed >= cap:
        outcome, reason = Outcome.KEEP, f"{reviewed} disagreements reviewed and none the clear winner"
    elif not enough:
        outcome, reason = Outcome.WAIT, f"{decisive} of at least {minimum} wins and losses"
    else:
        outcome, reason = Outcome.WAIT, f"not decided after {reviewed} of at most {cap} reviewed disagreements"
    return Verdict(outcome, reason, wins, losses, ties, better, worse)


def evidence(wins: int, losses: int) -> float:
    """How many times likelier the counts are under "wins more than half" than under "wins half": an e-value.

    The likelihood ratio of p against 1/2, averaged over p from a Beta(PRIOR, PRIOR) cut to (1/2, 1]. Under any p <= 1/2
    it is a non-negative supermartingale that starts at 1, so the chance that it ever reaches 1/alpha is at most alpha
    (Ville 1939; Robbins 1970, "Statistical methods related to the law of the iterated logarithm"; Howard, Ramdas,
    McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). 1 without data.
    """
    upper_half = betainc(losses + PRIOR, wins + PRIOR, 0.5)  # the posterior's mass above 1/2
    if upper_half == 0:
        return 0.0
    log_ratio = (
        float(betaln(wins + PRIOR, losses + PRIOR) - betaln(PRIOR, PRIOR))
        + math.log(2 * upper_half)
        + (wins + losses) * math.log(2)
    )
    return math.exp(min(log_ratio, _LARGEST_LOG))


def sample_ratio_mismatch(*, production: int, candidate: int, share: float) -> float:
    """The p-value of "the candidate is given `share` of the subjects", valid however often one looks.

    Below 0.001, say, the split is broken and no verdict should be drawn from it. Count subjects, not requests: the
    requests of one subject go to one arm together. The p-value is 1 over the Bayes factor of a Beta prior centred on
    `share` (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data"); one for a single look
    (binomial, chi-square) cries wolf sooner or later when read every few minutes.

    Undefined, and therefore `nan`, before the first subject. Raises ValueError for negative counts or a share that is
    not strictly between 0 and 1.
    """
    if min(production, candidate) < 0:
        raise ValueError(f"counts cannot be negative: production {production}, candidate {candidate}")
    if not 0 < share < 1:
        raise ValueError(f"share must lie strictly between 0 and 1, not {share}")
    if production + candidate == 0:
        return math.nan
    a, b = SHARE_PRIOR * share, SHARE_PRIOR * (1 - share)
    log_factor = (
        float(betaln(a + candidate, b + production) - betaln(a, b))
        - candidate * math.log(share)
        - production * math.log1p(-share)
    )
    return math.exp(-max(0.0, log_factor))
