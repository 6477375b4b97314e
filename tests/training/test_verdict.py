import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from training.verdict import Outcome, decide, sample_ratio_mismatch

ALPHA = 0.05
CAP = 400


@cache
def outcome_at(wins: int, losses: int, ties: int = 0) -> Outcome:
    return decide(wins=wins, losses=losses, ties=ties, alpha=ALPHA, cap=CAP).outcome


def first_outcomes(*, share_of_wins: float, share_of_ties: float, runs: int, seed: int) -> list[Outcome]:
    """The outcome at which each run stops when it is looked at after every label."""
    rng = np.random.default_rng(seed)
    tied = rng.random((runs, CAP)) < share_of_ties
    won = ~tied & (rng.random((runs, CAP)) < share_of_wins)
    wins, ties = np.cumsum(won, axis=1), np.cumsum(tied, axis=1)
    reviewed = np.arange(1, CAP + 1)
    counts = np.stack([wins, reviewed - wins - ties, ties], axis=-1)  # (runs, CAP, 3)
    return [next(o for c in run.tolist() if (o := outcome_at(*c)) != Outcome.WAIT) for run in counts]


def chance_of(outcome: Outcome, *, share_of_wins: float) -> float:
    """The exact chance of stopping at this outcome when looked at after every label, without ties."""
    going_on = {0: 1.0}  # wins so far -> probability
    stopped = 0.0
    for reviewed in range(1, CAP + 1):
        reached: dict[int, float] = {}
        for wins, chance in going_on.items():
            reached[wins + 1] = reached.get(wins + 1, 0.0) + chance * share_of_wins
            reached[wins] = reached.get(wins, 0.0) + chance * (1 - share_of_wins)
        now = {wins: outcome_at(wins, reviewed - wins) for wins in reached}
        stopped += sum(chance for wins, chance in reached.items() if now[wins] == outcome)
        going_on = {wins: chance for wins, chance in reached.items() if now[wins] == Outcome.WAIT}
    return stopped


def test_an_equal_candidate_is_rarely_promoted_or_rolled_back_however_often_one_looks() -> None:
    runs = 1000
    stops = first_outcomes(share_of_wins=0.5, share_of_ties=0.2, runs=runs, seed=1)
    promoted, rolled_back = stops.count(Outcome.PROMOTE), stops.count(Outcome.ROLL_BACK)
    print(f"{runs} equal candidates: {promoted} promoted, {rolled_back} rolled back")
    most = binom.ppf(0.999, runs, ALPHA)
    assert promoted <= most
    assert rolled_back <= most
    assert stops.count(Outcome.KEEP) == runs - promoted - rolled_back


def test_reading_a_fixed_size_test_after_every_label_would_promote_too_often() -> None:
    rng = np.random.default_rng(1)
    wins = np.cumsum(rng.random((1000, CAP)) < 0.5, axis=1)
    reviewed = np.arange(1, CAP + 1)
    significant = np.asarray(binom.sf(wins - 1, reviewed, 0.5)) <= ALPHA
    assert significant[:, 19:].any(axis=1).mean() > 3 * ALPHA


@pytest.mark.parametrize(("share_of_wins", "at_most"), [(0.5, 0.0300), (0.45, 0.0031), (0.3, 1e-4)])
def test_the_exact_chance_of_a_false_promotion_is_below_alpha(share_of_wins: float, at_most: float) -> None:
    assert chance_of(Outcome.PROMOTE, share_of_wins=share_of_wins) <= at_most < ALPHA


def test_better_and_worse_are_mirror_images() -> None:
    promoted = chance_of(Outcome.PROMOTE, share_of_wins=0.6)
    assert promoted == pytest.approx(chance_of(Outcome.ROLL_BACK, share_of_wins=0.4))
    assert decide(wins=40, losses=10).evidence_better == decide(wins=10, losses=40).evidence_worse


@pytest.mark.parametrize(("share_of_wins", "at_least"), [(0.55, 0.34), (0.6, 0.92), (0.65, 0.999)])
def test_a_better_candidate_is_promoted_with_the_stated_power(share_of_wins: float, at_least: float) -> None:
    # the versions disagree on 10% of items: 1, 2 and 3 points better
    power = chance_of(Outcome.PROMOTE, share_of_wins=share_of_wins)
    print(f"share of wins {share_of_wins}: promoted with probability {power:.4f}")
    assert power >= at_least


def test_three_points_better_with_a_fifth_of_ties_is_promoted() -> None:
    stops = first_outcomes(share_of_wins=0.65, share_of_ties=0.2, runs=300, seed=2)
    assert stops.count(Outcome.PROMOTE) >= 297


def test_evidence_is_an_expectation_of_one_for_an_equal_candidate() -> None:
    reviewed = 60
    chances = binom.pmf(np.arange(reviewed + 1), reviewed, 0.5)
    e_values = [decide(wins=w, losses=reviewed - w).evidence_better for w in range(reviewed + 1)]
    assert float(chances @ e_values) == pytest.approx(1.0)


def test_evidence_rises_with_every_win_and_falls_with_every_loss() -> None:
    rising = [decide(wins=w, losses=10).evidence_better for w in range(60)]
    falling = [decide(wins=30, losses=n).evidence_better for n in range(60)]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_without_data_it_waits_and_the_share_of_wins_is_undefined() -> None:
    verdict = decide(wins=0, losses=0)
    assert verdict.outcome == Outcome.WAIT
    assert verdict.evidence_better == verdict.evidence_worse == pytest.approx(1.0)
    assert math.isnan(verdict.share_of_wins)


def test_a_clear_run_of_wins_waits_for_the_minimum() -> None:
    assert decide(wins=19, losses=0).outcome == Outcome.WAIT
    assert decide(wins=20, losses=0).outcome == Outcome.PROMOTE
    assert decide(wins=0, losses=20).outcome == Outcome.ROLL_BACK


def test_ties_are_no_evidence() -> None:
    assert decide(wins=19, losses=0, ties=100).outcome == Outcome.WAIT
    assert decide(wins=40, losses=20, ties=100).evidence_better == decide(wins=40, losses=20).evidence_better


def test_at_the_cap_of_reviews_production_is_kept_ties_included() -> None:
    assert decide(wins=200, losses=199).outcome == Outcome.WAIT
    assert decide(wins=200, losses=200).outcome == Outcome.KEEP
    assert decide(wins=5, losses=5, ties=390).outcome == Outcome.KEEP


def test_evidence_that_arrives_with_the_last_review_still_counts() -> None:
    assert decide(wins=250, losses=150).outcome == Outcome.PROMOTE


def test_a_guardrail_blocks_any_verdict_and_gives_its_reason() -> None:
    verdict = decide(wins=400, losses=0, blocked="the split is broken")
    assert verdict.outcome == Outcome.WAIT
    assert verdict.reason == "the split is broken"


def test_evidence_stays_finite_for_very_many_reviews() -> None:
    verdict = decide(wins=100_000, losses=0)
    assert math.isfinite(verdict.evidence_better)
    assert verdict.evidence_worse == 0


@pytest.mark.parametrize(
    "wrong", [{"wins": -1}, {"losses": -1}, {"ties": -1}, {"alpha": 0.0}, {"alpha": 1.0}, {"minimum": 0}, {"cap": 10}]
)
def test_impossible_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie|cannot be negative"):
        decide(**({"wins": 1, "losses": 1} | wrong))  # type: ignore[arg-type]


def test_a_true_split_rarely_looks_broken_even_when_read_all_the_time() -> None:
    rng = np.random.default_rng(3)
    runs, share = 1000, 0.1
    subjects = np.arange(100, 20_001, 100)  # read every 100 subjects
    candidates = np.cumsum(rng.binomial(100, share, size=(runs, len(subjects))), axis=1)
    alarms = sum(
        any(
            sample_ratio_mismatch(production=n - c, candidate=c, share=share) < ALPHA
            for n, c in zip(subjects.tolist(), run, strict=True)
        )
        for run in candidates.tolist()
    )
    print(f"{alarms} false alarms in {runs} true splits")
    assert alarms <= binom.ppf(0.999, runs, ALPHA)


def test_a_broken_split_is_noticed() -> None:
    assert sample_ratio_mismatch(production=5300, candidate=4700, share=0.5) < 0.001
    assert sample_ratio_mismatch(production=5100, candidate=4900, share=0.5) > 0.1


def test_looking_all_the_time_costs_some_sharpness_against_a_single_look() -> None:
    single = binomtest(4800, 10_000, 0.5).pvalue
    assert single < sample_ratio_mismatch(production=5200, candidate=4800, share=0.5)


def test_the_split_is_undefined_before_the_first_subject() -> None:
    assert math.isnan(sample_ratio_mismatch(production=0, candidate=0, share=0.5))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_everything_cannot_be_tested(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        sample_ratio_mismatch(production=1, candidate=1, share=share)
