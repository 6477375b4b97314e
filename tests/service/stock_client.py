"""What a stock client of the Open Inference Protocol sees: `python stock_client.py MODULE ADDRESS` asks a server for
everything and prints the answers as JSON. A process of its own, as that client has its own idea of an event loop."""

import asyncio
import importlib
import inspect
import json
import sys
from typing import Any

import numpy as np

TEXTS = ["a positive thing", "日本語 🙂", "neutral"]


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def inputs(module: Any, texts: list[str], shape: list[int], **options: Any) -> list[Any]:
    tensor = module.InferInput("input", shape, "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object).reshape(shape), **options)
    return [tensor]


def shown(result: Any, *names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names or ("label", "confidence", "probabilities", "prediction_id"):
        values = result.as_numpy(name)
        if values is not None:
            found[name] = [one.decode() if isinstance(one, bytes) else one for one in values.tolist()]
    response = result.get_response()
    as_json = isinstance(response, dict)
    found["version"] = response["model_version"] if as_json else response.model_version
    found["id"] = response.get("id") if as_json else response.id
    return found


async def ask(name: str, address: str) -> dict[str, Any]:
    module = importlib.import_module(f"tritonclient.{name}")
    over_http = name.startswith("http")
    client = module.InferenceServerClient(address)
    found: dict[str, Any] = {
        "live": await done(client.is_server_live()),
        "ready": await done(client.is_server_ready()),
        "model_ready": await done(client.is_model_ready("reviews")),
        "version_ready": await done(client.is_model_ready("reviews", "v1")),
    }
    options = {} if over_http else {"as_json": True}
    found["server"] = await done(client.get_server_metadata(**options))
    found["model"] = await done(client.get_model_metadata("reviews", **options))
    found["plain"] = shown(await done(client.infer("reviews", inputs(module, TEXTS, [3]))))
    caller = {"subject": f"subject of {name}", "metadata.source": "stock"}
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    found["named"] = shown(
        await done(
            client.infer(
                "reviews",
                inputs(module, TEXTS, [3, 1]),
                model_version="v1",
                outputs=[module.InferRequestedOutput("prediction_id"), module.InferRequestedOutput("label")],
                request_id="request 7",
                parameters=caller,
                headers=headers,
            )
        )
    )
    if over_http:
        text = inputs(module, TEXTS, [3], binary_data=False)
        label = module.InferRequestedOutput("label", binary_data=False)
        scores = module.InferRequestedOutput("probabilities", binary_data=True)
        found["as_json"] = shown(await done(client.infer("reviews", text, outputs=[label, scores])))
    try:
        await done(client.infer("nothing", inputs(module, TEXTS, [3])))
    except importlib.import_module("tritonclient.utils").InferenceServerException as error:
        found["error"] = [error.status(), error.message()]
    await done(client.close())
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(*sys.argv[1:]))))
