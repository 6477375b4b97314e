"""Who is answered by which arm, and what is audited: pure functions of a hash, the same in every process."""

import hashlib

from regraft.events import Arm


def assign(subject: str, *, experiment: str, share: float) -> Arm:
    """The arm that answers `subject` while the version `experiment` is given `share` of the subjects.

    A subject's place between 0 and 1 depends on the experiment and the subject alone, and those below the share go to
    the candidate: so raising the share moves no one back, and two experiments split independently.
    """
    return Arm.CANDIDATE if _place("experiment", experiment, subject) < share else Arm.PRODUCTION


def audited(prediction_id: str, rate: float) -> bool:
    """Whether this prediction is drawn into the audit; true for a share `rate` of all predictions, at random."""
    return _place("audit", prediction_id) < rate


def _place(*parts: str) -> float:
    """A number in [0, 1), uniform over hashes. 53 bits, all that a float holds below 1."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
