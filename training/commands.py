"""The commands of this part: check the data, train a version, report on one, run the retraining worker."""

import json
import logging
import os
from pathlib import Path

import click

from regraft import ids, releases
from regraft.answers import SHORT
from regraft.cli import with_settings
from regraft.eventlog import EventLog, open_log
from regraft.events import ReleaseChanged
from regraft.sections import Backbone
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import Manifest, Metric, VersionStore


@click.command()
@click.option("--json", "as_json", is_flag=True, help="all of it as one JSON object")
@click.option("--card", type=click.Path(path_type=Path), help="make the split of this data_card.json again")
@with_settings
def check(settings: Settings, as_json: bool, card: Path | None) -> None:
    """Read the task and its data, say what is wrong with them; nothing is trained. Fails if it should not be."""
    _share_the_processor()
    task = Task.load(settings.task)
    if card is not None:
        from training.checks import sizes
        from training.dataset import read_card, split_again

        parts = split_again(read_card(card), task)
        click.echo(f"the files are those of the card, and so is the split: {sizes(parts)}")
        return
    from training.checks import refuse
    from training.checkup import check_up

    findings = check_up(task, settings.history)
    if as_json:
        click.echo(json.dumps(findings.as_json(), indent=2, ensure_ascii=False))
        click.get_current_context().exit(1 if findings.errors else 0)
    click.echo("\n".join(findings.lines()))
    refuse(findings)


@click.command()
@click.argument("sources", nargs=-1)
@with_settings
def compare(settings: Settings, sources: tuple[str, ...]) -> None:
    """Try the task's backbone, those of compare.backbones and SOURCES on a few rows; say which to take, and why."""
    _share_the_processor()
    from training.compare import sample, save, table, try_backbones
    from training.dataset import read_dataset

    task = Task.load(settings.task)
    named = (Backbone(source=source).found_from(Path.cwd()) for source in sources)
    backbones = {one.source: one for one in (*named, *task.compare.backbones, task.backbone)}
    rows = sample(read_dataset(task).parts.train, task.compare.examples, task.data.seed)
    compared = try_backbones(task, rows, list(backbones.values()))
    save(compared, settings.home / "compare.json")
    click.echo("\n".join(table(compared)))


@click.command()
@click.option("--run", help="go on with this run, or name a new one")
@click.option(
    "--thorough", is_flag=True, help="train the same network without stages and from scratch too, for the report"
)
@with_settings
def train(settings: Settings, run: str | None, thorough: bool) -> None:
    """Fine-tune the task's backbone on its data and publish a version; the first one goes into production.

    Several processes train it together where `accelerate launch` or `torchrun` starts them: their first one does the
    rest alone.
    """
    _share_the_processor()
    from training.checkup import remarks
    from training.dataset import read_dataset
    from training.processes import join
    from training.train import fine_tune, take_part, tidy, version_folder

    team = join()
    run = team.agree(run or ids.new_id())
    task = Task.load(settings.task)
    store, folder = VersionStore(settings.versions), settings.runs / run
    published = team.agree(store.exists(run))
    if not team.is_main:
        if not published:
            take_part(task, read_dataset(task), folder, team)
        return
    _log_to_terminal()
    if published:
        manifest = store.manifest(run)
    else:
        click.echo(f"run {run}")
        dataset = read_dataset(task)
        dataset = dataset.with_more(remarks(task, dataset.parts, settings.history))
        click.echo("\n".join(dataset.findings))
        manifest = fine_tune(task, dataset, folder, version=run, team=team, thorough=thorough)
        manifest = store.publish(version_folder(folder), manifest)
    tidy(folder)
    click.echo("\n" + results_table(manifest))
    click.echo(f"\nreport: {report_path(settings, run)}")
    click.echo(release_first(open_log(settings.log), run))


@click.command()
@click.argument("version")
@click.option("--out", type=click.Path(path_type=Path), help="where to write it  [default: reports/ in the home]")
@click.option("--compare", "other", help="set this version beside it")
@click.option("--open", "show", is_flag=True, help="open it in the browser")
@with_settings
def report(settings: Settings, version: str, out: Path | None, other: str | None, show: bool) -> None:
    """Make the report of VERSION anew from what the version holds, one file to read or send on."""
    _share_the_processor()
    from training.beside import Beside
    from training.report import render

    store = VersionStore(settings.versions)
    folder, manifest = store.fetch(version), store.manifest(version)
    beside = Beside.of((folder, manifest), (store.fetch(other), store.manifest(other))) if other else None
    name = f"{version}-beside-{other}.html" if other else f"{version}.html"
    file = out or settings.home / "reports" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(folder, manifest, beside), encoding="utf-8")
    click.echo(f"report: {file}")
    if show:
        click.launch(str(file))


@click.command()
@with_settings
def worker(settings: Settings) -> None:
    """Train a candidate whenever one is requested, and judge the running experiment."""
    _share_the_processor()
    _log_to_terminal()
    from training.worker import run_worker

    run_worker(settings)


def release_first(log: EventLog, version: str) -> str:
    """Put `version` into production if nothing is there yet; says what was done, or how to do it."""
    release = releases.current(log)
    if release.production is None:
        change = ReleaseChanged(replaces=release.generation, production=version, who="train", why="the first version")
        log.append([change])
        release = releases.current(log)
    if release.production == version:
        return f"version {version} is in production"
    return f"version {version} is ready; to put it into production: regraft release promote {version}"


def results_table(manifest: Manifest) -> str:
    """Test metrics of the version and its baselines, each with its 95% interval."""
    from training.summary import steps

    shown = manifest.answers.figures
    heads = [f"{SHORT[name]:>26}" for name in shown]
    lines = [f"{'on the test part':28}{''.join(heads)}{SHORT[shown[0]] + ' gained':>26}"]
    lines.append(f"{'version ' + manifest.version[:12]:28}" + "".join(_cell(manifest.test, m) for m in shown))
    for name, metrics in manifest.baselines.items():
        lines.append(f"{name:28}" + "".join(_cell(metrics, m) for m in (*shown, f"gain/{shown[0]}")))
    seconds = sum(steps(manifest).values())
    lines.append(f"serves {manifest.serve_cpu} on a CPU, {manifest.serve_gpu} on a GPU; made in {seconds:.0f} s")
    return "\n".join(lines)


def _cell(metrics: dict[str, Metric], name: str) -> str:
    gain, _, figure = name.rpartition("/")
    return f" {metrics[name].written(figure, '+' if gain else '')}".rjust(26)


def report_path(settings: Settings, version: str) -> Path | str:
    return f"{settings.versions.rstrip('/')}/{version}/report.html"


def _share_the_processor() -> None:
    """Threads that wait spin for a moment (some 0.1 ms) and then sleep: a step of training takes 132 ms of two idle
    cores instead of 155 with threads that sleep at once. Beside a busy service, spinning on makes it four times slower.

    Read by libgomp when torch is imported, so it is set before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _log_to_terminal() -> None:
    """What our own code says of how it goes, and of others what they warn of."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    for name in ("training", "regraft"):
        logging.getLogger(name).setLevel(logging.INFO)
