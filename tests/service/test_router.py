"""What the split promises to subjects, and the audit to statistics."""

import subprocess
import sys
from itertools import pairwise

import pytest

from regraft.events import Arm
from regraft.ids import new_id
from service.router import assign, audited

SUBJECTS = [f"subject-{number}" for number in range(20_000)]


def candidates(experiment: str, share: float) -> set[str]:
    return {one for one in SUBJECTS if assign(one, experiment=experiment, share=share) is Arm.CANDIDATE}


def test_a_subject_keeps_its_arm_across_processes() -> None:
    program = (
        "from service.router import assign\n"
        "print(*[assign(f'subject-{n}', experiment='v2', share=0.3) for n in range(200)])"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert other == [assign(one, experiment="v2", share=0.3).value for one in SUBJECTS[:200]]


def test_raising_the_share_moves_no_one_back_to_production() -> None:
    shares = [0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0]
    sets = [candidates("v2", share) for share in shares]
    assert all(before <= after for before, after in pairwise(sets))


def test_share_zero_sends_no_one_to_the_candidate_and_share_one_everyone() -> None:
    assert candidates("v2", 0.0) == set()
    assert candidates("v2", 1.0) == set(SUBJECTS)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_the_share_is_met_within_chance(share: float) -> None:
    deviation = (share * (1 - share) * len(SUBJECTS)) ** 0.5
    assert abs(len(candidates("v2", share)) - share * len(SUBJECTS)) < 4 * deviation


def test_two_experiments_split_independently() -> None:
    both = candidates("v2", 0.5) & candidates("v3", 0.5)
    assert abs(len(both) - len(SUBJECTS) / 4) < 4 * (len(SUBJECTS) * 3 / 16) ** 0.5


def test_a_subject_that_is_no_proper_text_has_an_arm_too() -> None:
    assert assign("\ud800", experiment="v2", share=1.0) is Arm.CANDIDATE


def test_the_audit_draws_its_rate_of_all_predictions() -> None:
    drawn = sum(audited(new_id(), 0.05) for _ in range(20_000))
    assert abs(drawn - 1_000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_the_audit_draws_none_at_rate_zero_and_all_at_rate_one() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert not any(audited(one, 0.0) for one in ids)
    assert all(audited(one, 1.0) for one in ids)


def test_the_audit_does_not_depend_on_the_arm() -> None:
    ids = [new_id() for _ in range(20_000)]
    candidate = [one for one in ids if assign(one, experiment="v2", share=0.5) is Arm.CANDIDATE]
    drawn = sum(audited(one, 0.2) for one in candidate)
    assert abs(drawn - 0.2 * len(candidate)) < 4 * (len(candidate) * 0.16) ** 0.5
