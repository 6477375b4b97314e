"""What a stock client of the Open Inference Protocol gets for images: `python stock_images.py http|grpc ADDRESS`. A
process of its own, as that client has its own idea of protobuf's messages."""

import importlib
import io
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def file_of(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


def tensor(module: Any, datatype: str, values: NDArray[Any]) -> Any:
    made = module.InferInput("input", list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def ask(name: str, address: str) -> dict[str, Any]:
    module = importlib.import_module(f"tritonclient.{name}")
    client = module.InferenceServerClient(address)
    options = {"as_json": True} if name == "grpc" else {}
    (described,) = client.get_model_metadata("reviews", **options)["inputs"]
    files = np.array([file_of(colour) for colour in ("red", "lime", "blue")], dtype=object)
    pixels = np.zeros((2, 5, 7, 3), dtype=np.uint8)
    pixels[0, :, :, 2] = pixels[1, :, :, 0] = 255
    grey = np.full((1, 9, 9, 1), 128, dtype=np.uint8)
    found: dict[str, Any] = {
        "metadata": [described["name"], described["datatype"], [int(size) for size in described["shape"]]]
    }
    for key, given in (
        ("files", tensor(module, "BYTES", files)),
        ("pixels", tensor(module, "UINT8", pixels)),
        ("grey", tensor(module, "UINT8", grey)),
    ):
        result = client.infer("reviews", [given])
        found[key] = {
            column: [one.decode() for one in result.as_numpy(column)] for column in ("label", "prediction_id")
        }
    client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(ask(*sys.argv[1:])))
