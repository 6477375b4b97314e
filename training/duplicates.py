"""Which texts say nearly the same, found in time that grows with the number of texts and not with its square.

texts -> shingles of 5 characters -> MinHash signatures -> candidates that agree in a band -> exact Jaccard -> pairs

Broder (1997), On the resemblance and containment of documents; banding after Indyk & Motwani (1998).
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
# Of two texts that share 80% of their shingles 99.8% agree in a band, of two that share 10% one in 50,000.
BANDS, ROWS = 20, 6
NEIGHBOURS = 8  # candidates looked at for each text in each band, however many agree in it
SLACK = 0.1  # a signature's estimate of the similarity is off by 0.04 (standard deviation)
CHUNK = 1 << 17  # characters that are worked on at once: they stay in the processor's cache

Hashes = NDArray[np.uint64]


class Pair(NamedTuple):
    first: int
    second: int
    similarity: float


class Sets:
    """Disjoint sets of 0 to n - 1 (union-find)."""

    def __init__(self, n: int) -> None:
        self._root = list(range(n))

    def find(self, index: int) -> int:
        while self._root[index] != index:
            self._root[index] = self._root[self._root[index]]
            index = self._root[index]
        return index

    def join(self, first: int, second: int) -> bool:
        """False if they were in one set already."""
        one, other = self.find(first), self.find(second)
        self._root[one] = other
        return one != other


def similar(texts: Sequence[str], threshold: float) -> list[Pair]:
    """Pairs with a Jaccard similarity of at least `threshold`, as many as it takes to connect all that are alike."""
    if len(texts) < 2:
        return []
    signatures = minhash(texts)
    sets, pairs = Sets(len(texts)), []
    for first, second in _candidates(signatures, threshold - SLACK):
        if sets.find(first) == sets.find(second):
            continue
        if (similarity := jaccard(texts[first], texts[second])) >= threshold:
            sets.join(first, second)
            pairs.append(Pair(first, second, similarity))
    return pairs


def unlike(
    keys: Sequence[str],
    known: AbstractSet[str],
    threshold: float | None,
    find: Callable[[Sequence[str], float], list[Pair]] = similar,
) -> list[str]:
    """Those of `keys`, in their order, that neither are nor resemble a known one, directly or by way of others; `find`
    says which resemble each other."""
    new = [key for key in keys if key not in known]
    if threshold is None:
        return new
    together = [*sorted(known), *new]
    sets = Sets(len(together))
    for pair in find(together, threshold):
        sets.join(pair.first, pair.second)
    taken = {sets.find(index) for index in range(len(known))}
    return [key for index, key in enumerate(new, start=len(known)) if sets.find(index) not in taken]


def jaccard(one: str, other: str) -> float:
    """Shingles that both have, as a share of those that either has."""
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second)


def minhash(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(texts, BANDS * ROWS): the smallest value that each hash function takes on a text's shingles."""
    offsets, factors = mixed(np.arange(1, 2 * BANDS * ROWS + 1, dtype=np.uint64)).reshape(2, -1)
    factors |= np.uint64(1)
    signatures = np.empty((len(texts), BANDS * ROWS), dtype=np.uint32)
    for start, stop in _chunks(texts):
        hashes, starts = _shingle_hashes(texts[start:stop])
        for column, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            smallest = np.minimum.reduceat(hashes * factor + offset, starts)
            signatures[start:stop, column] = smallest >> np.uint64(32)
    return signatures


def _padded(text: str) -> str:
    """With its ends marked, so that the first and last word count as others do."""
    return f" {text} ".ljust(SHINGLE)


def _shingles(text: str) -> set[str]:
    text = _padded(text)
    return {text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1)}


def _shingle_hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all shingles, one text after the other, and where each text's begin."""
    padded = [_padded(text) for text in texts]
    lengths = np.array([len(text) for text in padded])
    joined = "".join(padded).encode("utf-32-le", errors="surrogatepass")
    points = np.frombuffer(joined, dtype=np.uint32).astype(np.uint64)
    hashes = np.zeros(len(points) - SHINGLE + 1, dtype=np.uint64)
    for place in range(SHINGLE):
        hashes = hashes * np.uint64(0x100000001B3) + points[place : place + len(hashes)]
    ends = np.cumsum(lengths)
    left = np.repeat(ends, lengths)[: len(hashes)] - np.arange(len(hashes))
    counts = lengths - SHINGLE + 1
    return mixed(hashes[left >= SHINGLE]), np.cumsum(counts) - counts


def mixed(values: Hashes) -> Hashes:
    """Every bit depends on every other (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(signatures: NDArray[np.uint32], least: float) -> Iterator[tuple[int, int]]:
    """Pairs that agree in a band and whose signatures promise a similarity of `least`; the most alike first."""
    pairs = agreeing(np.split(signatures, BANDS, axis=1))
    agree = np.empty(len(pairs))
    for start in range(0, len(pairs), CHUNK):
        first, second = pairs[start : start + CHUNK].T
        agree[start : start + CHUNK] = (signatures[first] == signatures[second]).mean(axis=1)
    for index in np.argsort(-agree, kind="stable"):
        if agree[index] < least:
            return
        yield int(pairs[index, 0]), int(pairs[index, 1])


def agreeing(bands: Sequence[NDArray[np.uint32]]) -> NDArray[np.int64]:
    """(pairs, 2) that agree in one of the bands (n, numbers), the smaller index first; of many that agree in a band
    each with the next `NEIGHBOURS`."""
    return np.unique(np.concatenate([_in_one_band(band) for band in bands]), axis=0)


def _in_one_band(band: NDArray[np.uint32]) -> NDArray[np.int64]:
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = mixed(keys + column)
    order = np.argsort(keys, kind="stable")
    ordered, found = keys[order], []
    for step in range(1, min(NEIGHBOURS, len(band) - 1) + 1):
        places = np.flatnonzero(ordered[:-step] == ordered[step:])
        found.append(np.stack([order[places], order[places + step]], axis=1))
    return np.concatenate(found)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > CHUNK:
            yield start, index
            start, size = index, 0
        size += len(text) + SHINGLE
    yield start, len(texts)
