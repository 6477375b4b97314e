"""Which images show nearly the same, in time that grows with their number and not with its square.

images -> thumbnails of 16 x 16 -> sides of 640 planes -> candidates that agree in a band -> correlation -> pairs

Random planes after Charikar (2002). Everything is counted in whole numbers until the last division, so that all
machines find the same pairs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.preprocessing import ImagePreprocessor, ImageSpec
from regraft.preprocessing.image import MOST_PIXELS
from training.data import Row
from training.duplicates import Pair, Sets, agreeing, mixed, similar
from training.pictures import read_image

SIDE = 16
VALUES = SIDE * SIDE * 3
# Of two thumbnails with a correlation of 0.99 99.5% agree in a band, with 0.9 6%; those with 0.3 next to never.
BANDS, BITS = 20, 32
THREADS = 8  # Pillow lets go of Python's lock while it decodes

Thumbnails = NDArray[np.uint8]
Looks = Mapping[str, Thumbnails]  # (VALUES,) of each image, by its row's key


def thumbnails(images: Iterable[Any], read: Callable[[Any], bytes]) -> Thumbnails:
    """(images, VALUES): colours of encoded images, squeezed; each is `read` by the thread that decodes it, so that
    THREADS are held at once. Raises InvalidInput for what is no image."""
    spec = ImageSpec(
        height=SIDE, width=SIDE, resize="squash", interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3,
        max_pixels=MOST_PIXELS,
    )  # fmt: skip
    preprocessor = ImagePreprocessor(spec)
    with ThreadPoolExecutor(THREADS) as pool:
        encoded = pool.map(lambda one: preprocessor.encode([read(one)])[0], images)
        found = [one.pixels.reshape(VALUES) for one in encoded]
    return np.stack(found) if found else np.empty((0, VALUES), dtype=np.uint8)


def looks_of(rows: Sequence[Row]) -> Looks:
    """Of images; nothing of texts."""
    images = {row.key: row.input for row in rows if row.content}
    return dict(zip(images, thumbnails(images.values(), read_image), strict=True))


def alike(keys: Sequence[str], threshold: float, looks: Looks) -> list[Pair]:
    """As `look_alike`, of images whose `looks` are there; where there are none at all, the keys are texts."""
    if not looks:
        return similar(keys, threshold)
    unseen = np.zeros(VALUES, dtype=np.uint8)  # is like no other
    return look_alike(np.stack([looks.get(key, unseen) for key in keys]), threshold)


def look_alike(images: Thumbnails, threshold: float) -> list[Pair]:
    """Pairs with a correlation of at least `threshold`, as many as it takes to connect all that are alike. An image of
    one colour is like no other."""
    if len(images) < 2:
        return []
    pairs = agreeing(np.split(_sides(images), BANDS, axis=1))
    found = _correlation(images, pairs)
    sets, alike = Sets(len(images)), []
    for index in np.argsort(-found, kind="stable"):
        first, second = map(int, pairs[index])
        if found[index] < threshold:
            break
        if sets.join(first, second):
            alike.append(Pair(first, second, float(found[index])))
    return alike


def _sides(images: Thumbnails) -> NDArray[np.uint32]:
    """(images, BANDS), each of 32 bits: on which side of a plane. Brightness does not matter, nor does contrast."""
    order = np.argsort(mixed(np.arange(BANDS * BITS * VALUES, dtype=np.uint64)).reshape(-1, VALUES), axis=1)
    planes = np.where(order < VALUES // 2, 1.0, -1.0).astype(np.float32)  # half of each are 1, so that means cancel
    sides = np.empty((len(images), BANDS), dtype=np.uint32)
    weights = (1 << np.arange(BITS)).astype(np.uint32)
    for start in range(0, len(images), 4096):
        above = images[start : start + 4096].astype(np.float32) @ planes.T > 0  # below 2**24 float32 is exact
        sides[start : start + 4096] = above.reshape(-1, BANDS, BITS) @ weights
    return sides


def _correlation(images: Thumbnails, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's; 0 where one of the two has no contrast."""
    values = np.empty(len(pairs))
    for start in range(0, len(pairs), 4096):
        one, other = (images[ends].astype(np.int64) for ends in pairs[start : start + 4096].T)
        products = VALUES * (one * other).sum(axis=1) - one.sum(axis=1) * other.sum(axis=1)
        squares = [VALUES * (side * side).sum(axis=1) - side.sum(axis=1) ** 2 for side in (one, other)]
        size = np.sqrt(squares[0].astype(np.float64)) * np.sqrt(squares[1].astype(np.float64))
        values[start : start + 4096] = np.divide(products, size, out=np.zeros(len(size)), where=size > 0)
    return values
