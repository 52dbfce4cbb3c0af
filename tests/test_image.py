"""The Dockerfile: who runs in the image, what starts, and what gets into it."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import yaml

from tracebaton import redaction
from tracebaton.settings import Settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """Return name and arguments of each instruction, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


ALL = instructions(TEXT)
#: Those of the last stage: the image.
IMAGE = ALL[max(i for i, (name, _) in enumerate(ALL) if name == "FROM") :]


def last(name: str) -> str:
    """Return the arguments of the last such instruction of the image."""
    return [rest for each, rest in IMAGE if each == name][-1]


def test_the_command_is_what_starts() -> None:
    """In exec form, so that SIGTERM reaches it; without arguments it is the API."""
    assert yaml.safe_load(last("ENTRYPOINT")) == ["tracebaton"]
    assert yaml.safe_load(last("CMD"))[0] == "api"


def test_it_does_not_run_as_root() -> None:
    """The user is made in the image, and owns the one folder it may write to."""
    user = last("USER")
    made = " ".join(rest for name, rest in IMAGE if name == "RUN")
    names = [name for name, _ in IMAGE]

    assert user not in {"root", "0"}
    assert re.search(rf"useradd .*--uid [1-9]\d* .*{user}\b", made)
    assert f"install -d -o {user} {last('VOLUME')}" in made
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in {"RUN", "COPY"})


def test_it_holds_no_secret() -> None:
    """No build argument, and no variable that is one: they would stay in the layers."""
    given = dict(re.findall(r"(\w+)=(\S+)", last("ENV")))

    assert [name for name, _ in ALL if name in {"ARG", "ADD"}] == []
    assert [name for name in given if redaction.is_sensitive(name)] == []
    assert Settings.load(given).data == Path("/data")


def test_what_it_copies_is_there_and_not_ignored() -> None:
    """The build sees what it copies, and nothing else: no environment, key, history or cache."""
    copied = [
        name
        for instruction, rest in ALL
        if instruction == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    ]
    outside = [".env", ".git", ".tools", ".tracebaton", ".venv", "tests", "src/a/__pycache__"]

    assert {"pyproject.toml", "src", "README.md", "LICENSE"} == set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if ignored(name)] == []
    assert [name for name in outside if not ignored(name)] == []


def test_what_the_package_is_built_from_is_copied() -> None:
    """The build back end reads the readme and the licence that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    build = " ".join(rest for name, rest in ALL if name == "COPY")

    assert [n for n in [project["readme"], *project["license-files"]] if n not in build] == []
    [extras] = re.findall(r"install .*'\.\[([\w,]+)\]'", TEXT)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_its_python_is_one_the_package_supports() -> None:
    """Both stages have the same one, since the environment is copied from one to the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [version] = {re.match(r"python:(\d+\.\d+)-slim", rest)[1] for n, rest in ALL if n == "FROM"}  # type: ignore[index]

    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def ignored(name: str) -> bool:
    """Tell what .dockerignore says of *name*: the last line that matches it or a parent decides."""
    decision = False
    path = PurePosixPath(name)
    names = [str(path), *(str(parent) for parent in path.parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        tried = [PurePosixPath(n).name for n in names] if pattern.startswith("**/") else names
        if any(fnmatch(one, pattern.removeprefix("**/")) for one in tried):
            decision = not line.startswith("!")
    return decision
