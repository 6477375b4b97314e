"""How much memory it takes to train on 100,000 short texts: `regraft train` as anybody would run it, one epoch.

Texts are made of the words of real ones, so that none repeats another. Peaks of the process are read from /proc: VmHWM
with file pages, which the kernel can give to others whenever they are needed, and RssAnon without.
"""

import csv
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.training.material import DATA, REVIEWS, ROOT, SENTIMENTS, WORK, read_once

WORDS = (6, 16)  # of a text, at least and at most
BETWEEN = 0.2  # seconds between two looks
LIMIT = 4 * 2**30


@dataclass
class Peaks:
    """Bytes."""

    resident: int = 0  # VmHWM
    anonymous: int = 0  # the largest RssAnon that was seen

    def look(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = {name: 1024 * int(size) for name, size in re.findall(r"(VmHWM|RssAnon):\s+(\d+)", status)}
        self.resident = max(self.resident, found.get("VmHWM", 0))
        self.anonymous = max(self.anonymous, found.get("RssAnon", 0))


def measure(rows: int, backbone: Path = REVIEWS / "minilm") -> Peaks:
    folder = WORK / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_texts(folder / "texts.csv", rows)
    task = {
        "name": "memory",
        "labels": SENTIMENTS,
        "backbone": {"source": str(backbone)},
        "data": {"files": ["texts.csv"]},
        "training": {"epochs": 1, "stage_epochs": 1, "validate_every": 500},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    options = ["--task", str(folder / "task.yaml"), "--home", str(folder / "home")]
    peaks = Peaks()
    with subprocess.Popen([sys.executable, "-m", "regraft", *options, "train"], cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            peaks.look(process.pid)
            time.sleep(BETWEEN)
    if process.returncode:
        sys.exit(f"regraft train failed: {process.returncode}")
    shutil.rmtree(folder)
    return peaks


def write_texts(file: Path, rows: int) -> None:
    """Labelled at random but for a word that gives the label away in half of them."""
    words = [word for one in ("amazon", "tweets") for row in read_once(DATA[one])[0].rows for word in row.input.split()]
    chance = random.Random(0)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        for _ in range(rows):
            label = chance.choice(SENTIMENTS)
            text = chance.choices(words, k=chance.randint(*WORDS))
            if chance.random() < 0.5:
                text.insert(chance.randrange(len(text)), label)
            writer.writerow((" ".join(text), label))


def main(rows: int) -> None:
    peaks = measure(rows)
    resident, anonymous = peaks.resident / 2**30, peaks.anonymous / 2**30
    print(f"{rows:,} texts: at most {resident:.2f} GiB resident, {anonymous:.2f} of them no files")
    if peaks.anonymous > LIMIT:
        sys.exit(f"more than {LIMIT / 2**30:.0f} GiB that the kernel cannot take back")
