"""A task with images is served like one with texts: natively, over the Open Inference Protocol, into log and store."""

import asyncio
import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from regraft.errors import InvalidInput, VersionRefused
from regraft.inputs import InputStore, reference_of
from regraft.task import Task
from regraft.versions import VersionStore
from service import routes
from service.inputs import Keeper
from service.models import load
from service.parts import Parts
from tests.fakes import LABELS, tiny_task, tiny_version
from tests.images import plain, png, png_header
from tests.service.conftest import Installation, Server, events_of, installation_in, serving, wait_until
from tests.service.grpc_caller import channel_to, element, infer, labels, raw, request

RED, GREEN, BLUE = (plain(colour) for colour in ("red", "lime", "blue"))
CLIENT = Path(__file__).with_name("stock_images.py")
NATIVE = "/predict"
INFER = "/v2/models/reviews/infer"


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def image_installation(folder: Path, **sections: Any) -> Installation:
    installation = installation_in(folder, input="image", **sections)
    installation.publish("v1", input="image")
    installation.release("v1")
    return installation


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(image_installation(tmp_path_factory.mktemp("images"))) as running:
        wait_until(running.ready)
        yield running


def kept(server: Server, prediction_id: str) -> bytes:
    """The image that the event log says the prediction was about."""
    (event,) = [one for one in events_of(server.installation.log) if one.id == prediction_id]
    return InputStore(server.installation.settings.inputs).read(event.input)


def test_an_image_in_json_is_labelled_logged_and_kept(server: Server) -> None:
    answer = server.post(NATIVE, {"input": base64_of(GREEN), "subject": "ada"}).json()
    assert (answer["label"], answer["logged"]) == ("neutral", True)
    assert kept(server, answer["prediction_id"]) == GREEN
    url = server.post(NATIVE, {"input": f"data:image/png;base64,{base64_of(RED)}"}).json()
    assert url["label"] == "negative"


def test_an_image_may_be_the_body_itself(server: Server) -> None:
    answer = server.client.post(
        "/predict?subject=ada&metadata.camera=7", content=BLUE, headers={"Content-Type": "image/png"}
    ).json()
    assert answer["label"] == "positive"
    (event,) = [one for one in events_of(server.installation.log) if one.id == answer["prediction_id"]]
    assert (event.subject, event.metadata) == ("ada", {"camera": "7"})
    refused = server.client.post("/predict", content=BLUE, headers={"Content-Type": "image/tiff"})
    assert refused.status_code == 415


def test_several_images_are_answered_in_their_order(server: Server) -> None:
    answer = server.post("/predict/batch", {"inputs": [base64_of(one) for one in (BLUE, RED, png(3), RED)]}).json()
    found = [one["label"] for one in answer["predictions"]]
    assert (found[0], found[1], found[3]) == ("positive", "negative", "negative")
    assert kept(server, answer["predictions"][2]["prediction_id"]) == png(3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"input": "not base64!"}, "input: should be an image in base64"),
        ({"input": "émile"}, "input: should be an image in base64"),
        ({"input": ""}, "input: the image is empty"),
        ({"input": base64_of(b"words")}, "input: this is no image that can be read"),
        ({"input": base64_of(png()[:500])}, "input: the image is damaged"),
        ({"input": base64_of(png_header(60_000, 60_000))}, "pixels; at most"),
        ({"input": base64_of(png_header(2_000, 2_000))}, "2000 x 2000 pixels; at most 1000000"),
        ({"inputs": [base64_of(RED), base64_of(b"words"), ""]}, "inputs[1]: this is no image"),
    ],
)
def test_what_is_no_image_is_the_caller_s_fault(server: Server, body: dict[str, Any], sentence: str) -> None:
    response = server.post(NATIVE if "input" in body else "/predict/batch", body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_input")
    assert sentence in response.json()["error"]["message"]


def test_bodies_may_be_larger_than_those_of_texts(server: Server) -> None:
    answer = server.post(NATIVE, {"input": base64_of(png(height=900, width=1100))})
    assert answer.status_code == 200
    assert len(answer.request.content) > 1_000_000


@pytest.mark.parametrize("client", ["http", "grpc"])
def test_a_stock_client_sends_images_as_files_and_as_pixels(server: Server, client: str) -> None:
    settings = server.installation.settings
    port = settings.port if client == "http" else settings.grpc_port
    done = subprocess.run(
        [sys.executable, CLIENT, client, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metadata"] == ["input", "BYTES", [-1]]
    assert found["files"]["label"] == ["negative", "neutral", "positive"]
    assert found["pixels"]["label"] == ["positive", "negative"]
    assert found["grey"]["label"][0] in LABELS
    assert kept(server, found["files"]["prediction_id"][1]) == GREEN
    again = server.post(NATIVE, {"input": base64_of(kept(server, found["pixels"]["prediction_id"][0]))}).json()
    assert again["label"] == "positive"


def pixels(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "input", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [[[[0, 255, 0]] * 2] * 2]}
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize("data", [[[[[0, 255, 0]] * 2] * 2], [0, 255, 0] * 4])
def test_pixels_may_be_numbers_in_json(server: Server, data: list[Any]) -> None:
    outputs = server.post(INFER, pixels(data=data)).json()["outputs"]
    assert outputs[0]["data"] == ["neutral"]
    encoded = server.post(
        INFER, {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [[base64_of(GREEN)]]}]}
    ).json()
    assert encoded["outputs"][0]["data"] == ["neutral"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"datatype": "FP32"}, "should be BYTES or UINT8, not 'FP32'"),
        ({"shape": [1, 2, 6]}, "should be [n, height, width, 1, 3 or 4]"),
        ({"shape": [1, 3, 2, 2]}, "should be [n, height, width, 1, 3 or 4]"),
        ({"shape": [1, 0, 2, 3]}, "should be [n, height, width, 1, 3 or 4]"),
        ({"shape": [0, 2, 2, 3]}, "at least one image"),
        ({"data": [0, 256, 0] * 4}, "should hold 12 whole numbers from 0 to 255"),
        ({"data": [0, 0.5, 0] * 4}, "should hold 12 whole numbers"),
        ({"data": [0, None, 0] * 4}, "should hold 12 whole numbers"),
        ({"data": [[0, 1], [2]]}, "should hold 12 whole numbers"),
        ({"data": [0] * 11}, "should hold 12 whole numbers"),
        ({"shape": [1, 2_000, 1_000, 1], "data": [0] * 2_000_000}, "1000 x 2000 pixels; at most 1000000"),
        ({"datatype": "BYTES", "shape": [2], "data": [base64_of(RED)]}, "says 2 images, there are 1"),
    ],
)
def test_a_tensor_that_is_no_image_is_refused(server: Server, changes: dict[str, Any], sentence: str) -> None:
    response = server.post(INFER, pixels(**changes))
    assert response.status_code == 422
    assert sentence in response.json()["error"]


def test_grpc_takes_images_in_either_place(server: Server) -> None:
    with channel_to(server.installation.settings.grpc_port) as channel:
        call = infer(channel)
        assert labels(call(raw(element(RED) + element(BLUE), count=2))) == ["negative", "positive"]
        assert labels(call(request(contents={"bytes_contents": [GREEN]}))) == ["neutral"]
        tensor = {"datatype": "UINT8", "shape": [1, 1, 2, 3]}
        assert labels(call(request(**tensor, contents={"uint_contents": [0, 0, 255] * 2}))) == ["positive"]
        assert labels(call(request(**tensor, contents=None, raw_input_contents=[bytes([255, 0, 0] * 2)]))) == [
            "negative"
        ]


@pytest.fixture
async def parts(tmp_path: Path) -> Any:
    parts = Parts.assemble(image_installation(tmp_path).settings)
    await parts.start()
    yield parts
    await parts.close()


async def ask(parts: Parts, content: bytes = RED) -> dict[str, Any]:
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post("/predict", content=content, headers={"Content-Type": "image/png"})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_full_store_costs_the_answer_its_place_in_the_log_and_nothing_else(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(InputStore, "keep", full)
        answer = await ask(parts)
    assert (answer["label"], answer["logged"]) == ("negative", False)
    assert events_of(parts.log) == []
    assert b"regraft_unlogged_predictions_total 1.0" in parts.metrics.render()
    assert (await ask(parts))["logged"]
    (event,) = events_of(parts.log)
    assert event.input == reference_of(RED)


async def test_a_store_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging(InputStore):
        def keep(self, content: bytes) -> str:
            release.wait(20)
            return super().keep(content)

    keeper = Keeper(Hanging(str(tmp_path)), patience_seconds=0.05, max_waiting=1)
    assert await keeper.keep([RED]) is None  # too slow
    assert await keeper.keep([RED]) is None  # one waits already
    release.set()
    keeper.close()
    assert InputStore(str(tmp_path)).read(reference_of(RED)) == RED


async def test_decoding_leaves_the_event_loop_free(parts: Parts) -> None:
    """While images are decoded the loop keeps turning: it would not turn once if they were decoded on it."""
    model, turns = parts.following.serving.production, 0
    decoding = asyncio.create_task(model.encode([png(height=900, width=1000)] * 4))
    while not decoding.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert len(await decoding) == 4


def loaded(tmp_path: Path, task: Task) -> None:
    load(VersionStore(str(tmp_path / "versions")), "v1", task=task, provider="cpu", on_batch=lambda *_: None)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"pixels": "sha256:', '"pixels": "sha256:0', "golden example 0 is preprocessed to other pixels"),
        ('"image": "', '"image": "AAAA', "cannot be loaded|no image that can be read"),
    ],
)
def test_a_version_that_sees_other_pixels_is_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    task = Task.load(tiny_task(tmp_path, input="image"))
    manifest = tiny_version(tmp_path / "versions", "v1", input="image")
    loaded(tmp_path, task)
    folder = tmp_path / "versions" / "v1"
    (folder / "golden.json").write_text((folder / "golden.json").read_text().replace(old, new))
    (folder / "manifest.json").write_text(manifest.model_copy(update={"files": {}}).model_dump_json())
    with pytest.raises(VersionRefused, match=sentence):
        loaded(tmp_path, task)


def test_a_version_for_another_kind_of_input_is_refused(tmp_path: Path) -> None:
    tiny_version(tmp_path / "versions", "v1")
    with pytest.raises(VersionRefused, match="takes an input of kind 'text', the task has 'image'"):
        loaded(tmp_path, Task.load(tiny_task(tmp_path, input="image")))


async def test_an_image_never_shares_its_fault_with_its_neighbours(parts: Parts) -> None:
    model = parts.following.serving.production
    with pytest.raises(InvalidInput, match=r"inputs\[1\]: .* is damaged") as caught:
        await model.encode([RED, png()[:400], b""])
    assert caught.value.details == {"index": 1}
    alone = (await model.score(await model.encode([png(5)])))[0].answers
    among = (await model.score(await model.encode([RED, png(5), BLUE])))[1].answers
    np.testing.assert_array_equal(alone, among)
