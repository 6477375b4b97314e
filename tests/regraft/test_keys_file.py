"""The keys file: what it may say, how a key gets in, and that a mistake names its entry and shows no value."""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from regraft import keys_file
from regraft.cli import main
from regraft.errors import ConfigError, Unauthorized
from regraft.keys import Key, Scope, digest
from regraft.settings import Settings

HASH = digest("regraft_one")
ONE = f"- name: one\n  sha256: {HASH}\n  scopes: [predict]\n"
KEY = Key("two", digest("regraft_two"), frozenset({Scope.REVIEW}), 2.5)


def entries(**changes: Any) -> str:
    """A good entry, and a second one with these changes; None leaves a field out."""
    second = {"name": "two", "sha256": KEY.sha256, "scopes": ["review"]} | changes
    first = {"name": "one", "sha256": HASH, "scopes": ["predict"]}
    return json.dumps([first, {name: value for name, value in second.items() if value is not None}])


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "keys.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("text", [ONE + keys_file.entry(KEY), entries(rate=2.5)], ids=["yaml", "json"])
def test_keys_are_read(tmp_path: Path, text: str) -> None:
    assert keys_file.read(written(tmp_path, text)) == [Key("one", HASH, frozenset({Scope.PREDICT})), KEY]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key"),
        ("# none yet\n", "holds no key"),
        ("[]", "holds no key"),
        ("name: one", "should be a list of keys"),
        ("one", "should be a list of keys"),
        ("- one", "entry 1: should be a mapping"),
        ("- [a", "is not YAML"),
        ("- name: a\n\tb", "line 2: is not YAML"),
        ("- 2020-99-99", "is not YAML"),
        ("- !!python/object:os.system x", "line 1: is not YAML"),
        ("[" * 5000, "is not YAML"),
        (b"\xff\xfe\xfa", "is not UTF-8"),
        (entries(name=None), "entry 2: name: is missing"),
        (entries(name=""), "entry 2: name: "),
        (entries(name="a b"), "entry 2: name: "),
        (entries(name="a\nb"), "entry 2: name: "),
        (entries(name=5), "entry 2: name: "),
        (entries(name="one"), r"entry 2 \(one\): has the name of entry 1"),
        (entries(sha256=None), r"entry 2 \(two\): sha256: is missing"),
        (entries(sha256=HASH), r"entry 2 \(two\): has the sha256 of entry 1"),
        (entries(sha256="regraft_two"), r"entry 2 \(two\): sha256: "),
        (entries(sha256=HASH.upper()), r"entry 2 \(two\): sha256: "),
        (entries(sha256=5), r"entry 2 \(two\): sha256: "),
        (entries(scopes=None), r"entry 2 \(two\): scopes: is missing"),
        (entries(scopes=[]), r"entry 2 \(two\): scopes: "),
        (entries(scopes="review"), r"entry 2 \(two\): scopes: "),
        (entries(scopes=["review", "all"]), r"entry 2 \(two\): scopes.1: Input should be 'predict'"),
        (entries(rate=0), r"entry 2 \(two\): rate: "),
        (entries(rate=-1), r"entry 2 \(two\): rate: "),
        (entries(rate=True), r"entry 2 \(two\): rate: "),
        (entries(rate="5"), r"entry 2 \(two\): rate: "),
        (entries(rate=float("inf")), r"entry 2 \(two\): rate: "),
        (entries(rate=float("nan")), r"entry 2 \(two\): rate: "),
        (entries(secret="regraft_two"), r"entry 2 \(two\): has a field that there is not"),
    ],
)
def test_a_bad_file_names_its_entry_and_shows_no_value(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        keys_file.guard(str(path))
    assert str(path) in caught.value.message
    assert "regraft_two" not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        keys_file.read(tmp_path / name)


def test_without_a_file_the_door_is_open(tmp_path: Path) -> None:
    assert keys_file.guard("").admit(None, [Scope.ADMIN]) is None
    with pytest.raises(Unauthorized):
        keys_file.guard(str(written(tmp_path, ONE))).admit(None, [Scope.ADMIN])


@pytest.mark.parametrize("before", [None, "", ONE, "# ours\n" + ONE.rstrip("\n")])
def test_an_entry_is_added_and_the_rest_stays(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "keys.yaml" if before is None else written(tmp_path, before)
    keys_file.add(path, KEY)
    assert path.read_text().startswith(before or "")
    assert keys_file.read(path)[-1] == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "sentence"),
    [(keys_file.entry(KEY), "there is a key 'two' already"), (json.dumps([]), "can only be added"), ("- x", "entry 1")],
)
def test_what_cannot_be_added_leaves_the_file_as_it_was(tmp_path: Path, before: str, sentence: str) -> None:
    path = written(tmp_path, before)
    with pytest.raises(ConfigError, match=sentence):
        keys_file.add(path, KEY)
    assert path.read_text() == before


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments])


def test_a_key_made_on_the_command_line_opens_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    monkeypatch.setenv("REGRAFT_KEYS_FILE", str(path))
    made = run("new", "shop", "--scope", "predict", "--scope", "feedback", "--rate", "5")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert keys_file.guard(str(path)).admit(f"Bearer {secret}", [Scope.FEEDBACK]) == "shop"
    assert secret not in path.read_text()
    assert run("list").output == "shop  feedback predict  5 a second\n"


def test_without_a_file_the_entry_is_shown(tmp_path: Path) -> None:
    secret, _, entry = run("new", "shop", "--scope", "predict").stdout.partition("\n")
    (key,) = keys_file.read(written(tmp_path, entry))
    assert (key.name, key.sha256) == ("shop", digest(secret))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("new", "shop"), "--scope"),
        (("new", "shop", "--scope", "all"), "all"),
        (("new", "a b", "--scope", "predict"), "the new key: entry 1: name"),
        (("new", "shop", "--scope", "predict", "--rate", "0"), "rate"),
        (("list",), "REGRAFT_KEYS_FILE: is not set"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert sentence in result.output
    assert "regraft_" not in result.output


def rewritten(path: Path, text: str, *, seconds_ago: float) -> None:
    path.write_text(text)
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))


def test_a_file_that_changed_is_read_again_once_nobody_writes_it(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)
    watched = keys_file.Watched(path)
    assert watched.news() is None
    rewritten(path, ONE + keys_file.entry(KEY), seconds_ago=0)
    assert watched.news() is None, "somebody may still be writing it"
    rewritten(path, ONE + keys_file.entry(KEY), seconds_ago=5)
    assert watched.news() == keys_file.read(path)
    assert watched.news() is None
    rewritten(path, ONE, seconds_ago=-3600)
    assert watched.news() == keys_file.read(path), "a clock that is ahead keeps nothing back"


def test_a_mistake_in_a_file_that_changed_is_said_once_and_gives_no_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, ONE)
    watched = keys_file.Watched(path)
    half = (ONE + keys_file.entry(KEY)).removesuffix("  - review\n  rate: 2.5\n")
    for text, sentence in ((half, "entry 2 (two): "), ("", "holds no key")):
        caplog.clear()
        rewritten(path, text, seconds_ago=5)
        assert watched.news() is None
        assert watched.news() is None
        (said,) = caplog.messages
        assert sentence in said
        assert said.endswith("; the keys of before stay")
        assert HASH not in said
    path.unlink()
    assert watched.news() is None
    assert "cannot be read" in caplog.messages[-1]
    rewritten(path, ONE, seconds_ago=5)
    assert watched.news() == [Key("one", HASH, frozenset({Scope.PREDICT}))]


def test_a_child_process_finds_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.read(keys_file="keys.yaml").as_environment()["REGRAFT_KEYS_FILE"] == str(tmp_path / "keys.yaml")
    assert Settings.read().as_environment()["REGRAFT_KEYS_FILE"] == ""
