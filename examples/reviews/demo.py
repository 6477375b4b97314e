"""The whole circle on real data in a few minutes: train, serve, log, flag, review, notice drift, retrain, A/B, promote.

Everything is the product's own (`regraft train`, `regraft up`, its HTTP APIs) but for three simulated roles: callers
send snippets that a crowd has rated, users flag some of the answers that the crowd disagrees with, and reviewers answer
with the crowd's label. Exits with 1, and the reason, if any step of the story did not happen.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from examples.reviews import fetch, measure
from examples.reviews.actors import Callers, Reviewers, Snippet, snippets
from examples.reviews.timeline import StoryError, Timeline, say
from regraft.eventlog import open_log
from regraft.events import (
    CandidateRefused,
    CandidateRegistered,
    DriftMeasured,
    ReleaseChanged,
    RetrainingRequested,
    VerdictReached,
)
from regraft.settings import Settings

HERE = Path(__file__).resolve().parent
LIVELY = {"poll_seconds": 0.2, "record_seconds": 1.0, "judge_seconds": 2.0}
CALM = 350  # predictions between two drift checks of the calm phase
T = TypeVar("T")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the system up at the end")
    parser.add_argument("--home", type=Path, default=Path(".regraft/demo"), help="folder for the demo, emptied first")
    options = parser.parse_args()
    shutil.rmtree(options.home, ignore_errors=True)
    ports = free_ports("port", "grpc_port", "monitor_port", keep=options.keep)
    settings = Settings.read(task=HERE / "task.yaml", home=options.home, **ports, **LIVELY)
    failures: list[BaseException] = []
    try:
        run(settings, keep=options.keep)
    except* (StoryError, TimeoutError, subprocess.CalledProcessError, httpx.HTTPError) as group:
        failures += group.exceptions
    for failure in failures:
        say(f"FAILED: {failure!r}\nThe logs are in {settings.home / 'run'}")
    return 1 if failures else 0


def run(settings: Settings, *, keep: bool) -> None:
    say("FETCH: a small pre-trained network and rated snippets (kept for the next time)")
    fetch.main()
    say("TRAIN: 2,600 rated Amazon reviews")
    subprocess.run(regraft("train"), env=os.environ | settings.as_environment(), check=True)
    with system(settings):
        asyncio.run(tell(settings))
        say(f"Reports to open:\n{reports(settings)}")
        if keep:
            say(invitation(settings))
            with suppress(KeyboardInterrupt):
                signal.pause()
    say("The whole circle, and every step of it happened")


@contextmanager
def system(settings: Settings) -> Iterator[None]:
    """`regraft up`, until the block ends."""
    say("UP: service, monitor and worker")
    process = subprocess.Popen(regraft("up"), env=os.environ | settings.as_environment())
    try:
        for url in (f"{service_url(settings)}/readyz", f"{monitor_url(settings)}/healthz"):
            wait_until_answered(url, seconds=90)
        yield
    finally:
        process.terminate()
        process.wait()


def wait_until_answered(url: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise StoryError(f"{url} did not answer within {seconds:.0f} s")


def regraft(command: str) -> list[str]:
    return [sys.executable, "-m", "regraft", command]


def service_url(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.port}"


def monitor_url(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.monitor_port}"


def free_ports(*names: str, keep: bool) -> dict[str, int]:
    """Ports that nobody listens on; the product's own where they are free and somebody will want to type them."""
    wanted = [Settings.model_fields[name].default if keep else 0 for name in names]
    sockets = [socket.socket() for _ in names]
    for one, port in zip(sockets, wanted, strict=True):
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(names, ports, strict=True))


def reports(settings: Settings) -> str:
    home = settings.home
    found = sorted([*home.glob("versions/*/report.html"), *home.glob("history/drift/*.html")])
    return "\n".join(str(file) for file in found)


def invitation(settings: Settings) -> str:
    service, monitor = service_url(settings), monitor_url(settings)
    return f"""The system stays up until Ctrl-C. To try:
curl {service}/predict -H 'Content-Type: application/json' -d '{{"input": "what a lovely day"}}'
curl {service}/feedback -H 'Content-Type: application/json' -d '{{"prediction_id": "ID FROM ABOVE", "correct": false}}'
curl '{monitor}/review/queue?limit=3'
curl {monitor}/status
open {service}/ (the API), {service}/metrics, {monitor}/metrics, {monitor}/docs"""


async def tell(settings: Settings) -> None:
    """The story. Each step raises StoryError when it does not come true."""
    timeline = Timeline(open_log(settings.log))
    callers = Callers(service_url(settings))
    amazon, tweets = snippets("amazon_live"), iter(snippets("tweets"))
    reviewers = Reviewers(monitor_url(settings), [*amazon, *snippets("tweets")])
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(timeline.follow()), group.create_task(reviewers.work())]
        await calm(timeline, callers, amazon)
        await drift(timeline, callers, tweets)
        candidate = await retraining(timeline, callers, tweets)
        await experiment(timeline, callers, tweets, candidate)
        for task in background:
            task.cancel()
    say(f"{callers.sent} answers, {callers.flagged} flagged by users, {reviewers.reviewed} labelled by reviewers")
    first = timeline.events_of(ReleaseChanged)[0].production
    compare(settings, first, candidate)


async def calm(timeline: Timeline, callers: Callers, amazon: list[Snippet]) -> None:
    say("CALM: more Amazon reviews. Simulated users flag, simulated reviewers answer with the crowd's label")
    for number, part in enumerate((amazon[:CALM], amazon[CALM : 2 * CALM]), start=1):
        await callers.send(part, per_second=60)
        await timeline.wait_for(DriftMeasured, seconds=120, count=number)
    alarms = timeline.events_of(DriftMeasured, lambda check: check.drifted)
    if [*alarms, *timeline.events_of(RetrainingRequested)]:
        raise StoryError("something fired in the calm phase")
    say(f"Nothing fired. The crowd agrees with {callers.right / callers.sent:.1%} of {callers.sent} answers")


async def drift(timeline: Timeline, callers: Callers, tweets: Iterator[Snippet]) -> None:
    say("THE WORLD CHANGES: tweets come in")
    sent, right = callers.sent, callers.right
    drifted = timeline.wait_for(DriftMeasured, lambda check: check.drifted, seconds=120)
    await send_until(drifted, callers, tweets, per_second=30)
    await send_until(timeline.wait_for(RetrainingRequested, seconds=120), callers, tweets, per_second=30)
    share = (callers.right - right) / (callers.sent - sent)
    say(f"The crowd agrees with only {share:.1%} of {callers.sent - sent} answers")


async def retraining(timeline: Timeline, callers: Callers, tweets: Iterator[Snippet]) -> str:
    say("RETRAINING: the original data and the reviewed labels. The service goes on answering meanwhile")
    registered = timeline.wait_for(CandidateRegistered, seconds=480, unless=CandidateRefused)
    version = (await send_until(registered, callers, tweets, per_second=2)).version
    await timeline.wait_for(ReleaseChanged, lambda change: change.candidate == version, seconds=30)
    return version


async def experiment(timeline: Timeline, callers: Callers, tweets: Iterator[Snippet], candidate: str) -> None:
    say("A/B TEST: reviewers label a random sample of what the two versions disagree on")
    await send_until(timeline.wait_for(VerdictReached, seconds=150), callers, tweets, per_second=40)
    await timeline.wait_for(ReleaseChanged, lambda change: change.production == candidate, seconds=10)
    async with asyncio.timeout(30):
        while await callers.serving() != candidate:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    say(f"The service answers with {candidate}")


async def send_until(
    happened: Coroutine[Any, Any, T], callers: Callers, source: Iterator[Snippet], *, per_second: float
) -> T:
    """Keep sending from `source` until `happened`."""
    done = asyncio.Event()
    sending = asyncio.create_task(callers.send(source, per_second=per_second, until=done))
    try:
        return await happened
    finally:
        done.set()
        await sending


def compare(settings: Settings, before: str, after: str) -> None:
    """Both versions on texts that neither was trained on; raises StoryError where the newer is not really better."""
    say("BEFORE AND AFTER, on texts that never were in traffic or in training (95% intervals)")
    tweets = measure.compare(settings, before, after, snippets("tweets_unseen"))
    say(f"tweets  {tweets}")
    say(f"Amazon  {measure.compare(settings, before, after, measure.test_part(settings))}")
    if tweets.difference.low <= 0:
        raise StoryError("the new version is not clearly better on tweets")


if __name__ == "__main__":
    sys.exit(main())
