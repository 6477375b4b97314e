"""The OpenAPI page against a real server: Schemathesis makes requests of it, right and wrong ones, and holds every
answer against what the page promises.

REGRAFT_FUZZ_EXAMPLES: how many requests for each operation and phase; with a number, they are others each time.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from regraft import keys_file
from regraft.ids import new_id
from regraft.keys import Key, Scope, digest
from tests.service.conftest import Installation, Server, installation_in, serving, wait_until

EXAMPLES = os.environ.get("REGRAFT_FUZZ_EXAMPLES")
SECRET = "regraft_of-the-fuzzer"
# What fits the page may still be no input of the task: an empty text, an image, a label that there is not, a batch too
# large.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = [200, 202, 401, 404, 413, 415, 422]

# By chance alone no request would name the model.
[dictionaries]
names.values = ["reviews"]
versions.values = ["v1"]
inputs.values = ["input"]
outputs.values = ["label", "confidence", "probabilities", "prediction_id"]
datatypes.values = ["BYTES"]
sizes.values = [1]
texts.values = ["a positive day"]
ids.values = ["%(id)s"]

[parameters]
"path.name" = {dictionary = "names", probability = 0.9}
"path.version" = {dictionary = "versions", probability = 0.9}
"body.inputs[*].name" = {dictionary = "inputs", probability = 0.9}
"body.inputs[*].datatype" = {dictionary = "datatypes", probability = 0.9}
"body.inputs[*].shape[*]" = {dictionary = "sizes", probability = 0.8}
"body.inputs[*].data[*]" = {dictionary = "texts", probability = 0.5}
"body.outputs[*].name" = {dictionary = "outputs", probability = 0.9}
"body.prediction_id" = {dictionary = "ids", probability = 0.7}
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    keys_file.add(tmp_path / "keys.yaml", Key("fuzzer", digest(SECRET), frozenset(Scope)))
    bare = installation_in(tmp_path)
    installation = Installation(bare.settings.model_copy(update={"keys_file": str(tmp_path / "keys.yaml")}))
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as server:
        wait_until(server.ready)
        yield server


def test_every_answer_is_as_the_openapi_page_promises(guarded: Server, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION % {"id": new_id()})
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run"]
    command += [f"http://127.0.0.1:{guarded.installation.settings.port}/docs.json"]
    command += ["--checks", "all", "--header", f"Authorization: Bearer {SECRET}"]
    command += ["--max-examples", EXAMPLES or "10", "--continue-on-failure"]
    if EXAMPLES:
        command += ["--generation-database", "none"]
    else:
        command += ["--generation-deterministic", "--seed", "1", "--phases", "coverage,fuzzing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "unresolvable" not in done.stdout
    output = guarded.output.read_text()
    assert "internal error" not in output
    assert SECRET not in output
