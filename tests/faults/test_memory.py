"""Memory does not grow with the number of requests."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.serving.load import Job
from tests.service.conftest import Server, installation_in, serving, wait_until

ROOT = Path(__file__).parents[2]
# In all; a tenth of them warms up. 200,000 take a few minutes.
REQUESTS = int(os.environ.get("REGRAFT_MEMORY_REQUESTS", "6000"))
CONCURRENCY = 64


def test_memory_after_many_requests_is_what_it_was_after_a_tenth_of_them(tmp_path: Path) -> None:
    installation = installation_in(tmp_path)
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as server:
        wait_until(server.ready)
        ask(server, REQUESTS // 10)
        early = resident(server)
        ask(server, REQUESTS - REQUESTS // 10)
        late = resident(server)
    print(f"{early / 2**20:.1f} MiB after {REQUESTS // 10} requests, {late / 2**20:.1f} MiB after {REQUESTS}")
    assert late < early * 1.05


def ask(server: Server, count: int) -> None:
    texts = [f"text number {number} of a few, {'positive ' * (number % 7)}" for number in range(200)]
    job = Job(
        port=server.installation.settings.port,
        wire="native",
        concurrency=CONCURRENCY,
        texts=texts,
        labels=["positive"] * len(texts),  # whether they are right is not asked here
        probabilities=[[0.0, 0.0, 1.0]] * len(texts),
        seconds=3600,
        limit=count,
    )
    command = [sys.executable, "-m", "benchmarks.serving.load"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, cwd=ROOT, check=True)
    outcome = json.loads(done.stdout)
    assert (outcome["answered"], outcome["failed"]) == (count, 0), outcome


def resident(server: Server) -> int:
    """Bytes of all workers."""
    return sum(worker.memory_info().rss for worker in server.workers())
