"""Every file that is installed is known by its hash, and what is tested is what the lock says."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUN_EXTRAS = ("s3", "gcs", "http", "hf")
PYTHONS = ("3.11", "3.12", "3.13")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}


class Pinned(NamedTuple):
    requirement: Requirement
    hashes: list[str]

    @property
    def version(self) -> Version:
        (only,) = self.requirement.specifier
        assert only.operator == "==", self.requirement
        return Version(only.version)


def locked(name: str) -> dict[str, list[Pinned]]:
    """Name -> what is pinned of it, several where machines differ."""
    found: dict[str, list[Pinned]] = {}
    text = (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        stated, *hashes = re.split(r"\s+--hash=", line)
        requirement = Requirement(stated.strip())
        found.setdefault(canonicalize_name(requirement.name), []).append(Pinned(requirement, hashes))
    return found


def environments() -> list[dict[str, str]]:
    return [
        LINUX | {"python_version": python, "python_full_version": f"{python}.9", "platform_machine": machine}
        for python in PYTHONS
        for machine in ("x86_64", "aarch64")
    ]


def wanted(name: str) -> list[Requirement]:
    """What pyproject.toml asks for, and what builds the package."""
    extras = ("test", "lint") if name == "develop" else RUN_EXTRAS
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], "editables"]
    return [Requirement(line) for line in [*lines, *(line for extra in extras for line in EXTRAS[extra])]]


@pytest.mark.parametrize("name", ["develop", "run"])
def test_each_pin_is_exact_and_has_hashes(name: str):
    pins = [pin for several in locked(name).values() for pin in several]
    assert len(pins) > 80
    for pin in pins:
        assert pin.version and pin.requirement.url is None
        assert pin.hashes, f"{pin.requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes), pin.requirement
        assert len(set(pin.hashes)) == len(pin.hashes)


@pytest.mark.parametrize("name", ["develop", "run"])
def test_each_dependency_is_pinned_within_its_bounds_on_every_machine(name: str):
    pins = locked(name)
    for requirement in wanted(name):
        several = pins[canonicalize_name(requirement.name)]
        for environment in environments():
            (pin,) = [
                each
                for each in several
                if each.requirement.marker is None or each.requirement.marker.evaluate(environment)
            ]
            assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement}: {pin.version}"


def test_both_locks_agree():
    develop, run = locked("develop"), locked("run")
    assert [name for name in develop.keys() & run.keys() if develop[name] != run[name]] == []
    own = {canonicalize_name(requirement.name) for requirement in wanted("run")}
    assert own <= run.keys()
    for tool in ("pytest", "ruff", "ray", "hypothesis"):
        assert tool in develop and tool not in run


def test_what_is_installed_here_is_what_is_pinned():
    here = {}
    for several in locked("develop").values():
        applying = [each for each in several if each.requirement.marker is None or each.requirement.marker.evaluate()]
        here |= {canonicalize_name(each.requirement.name): each.version for each in applying}
    differing = []
    for name, version in here.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            differing.append(f"{name} {version} is not installed")
            continue
        if Version(installed) != version:
            differing.append(f"{name} is {installed}, pinned {version}")
    assert differing == [], "make install"


def test_nothing_that_is_installed_needs_what_is_not_pinned():
    """Dependencies of dependencies too, by the metadata of what is installed."""
    pins, missing = locked("develop"), set()
    todo, done = [(requirement.name, requirement.extras) for requirement in wanted("develop")], set()
    while todo:
        name, extras = todo.pop()
        if (canonicalize_name(name), frozenset(extras)) in done:
            continue
        done.add((canonicalize_name(name), frozenset(extras)))
        if canonicalize_name(name) not in pins:
            missing.add(name)
            continue
        for line in importlib.metadata.requires(name) or []:
            inner = Requirement(line)
            if any(inner.marker is None or inner.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
                todo.append((inner.name, inner.extras))
    assert missing == set()


def test_the_makefile_installs_by_hash_and_builds_with_what_is_pinned():
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if " pip install " in f" {line} "]
    assert len(lines) == 2
    assert "--require-hashes --no-deps -r requirements/develop.lock" in lines[0]
    assert lines[1].split()[-4:] == ["--no-deps", "--no-build-isolation", "-e", "."]


def test_pip_refuses_a_file_of_another_hash(tmp_path: Path):
    """That `--require-hashes` does what is meant: a wheel that was exchanged is not installed."""
    import zipfile

    wheel = tmp_path / "innocent-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("innocent.py", "")
        file.writestr("innocent-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: innocent\nVersion: 1.0\n")
        file.writestr("innocent-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("innocent-1.0.dist-info/RECORD", "")
    pinned = tmp_path / "pinned.lock"
    pinned.write_text(f"innocent==1.0 --hash=sha256:{'0' * 64}\n")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--find-links"]
    line = [*pip, str(tmp_path), "--require-hashes", "--no-deps", "-r", str(pinned), "--target", str(tmp_path / "to")]
    alone = os.environ | {"PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(line, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "to").exists()
