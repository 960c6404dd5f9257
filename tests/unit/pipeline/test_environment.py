import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# environment.yml carries these sets of pyproject.toml.
EXTRAS = ("cpu", "dev")


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(root):
    """{canonical name: version} of requirements/cpu.txt; every line must be an exact pin."""
    pins = {}
    for line in (root / "requirements/cpu.txt").read_text().splitlines():
        if line.strip() and not line.strip().startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


@pytest.fixture(scope="module")
def conda(root):
    return yaml.safe_load((root / "environment.yml").read_text())


def direct(project):
    """The requirements that environment.yml must pin."""
    lines = [*project["dependencies"]]
    lines += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def pip_part(conda):
    (part,) = [entry for entry in conda["dependencies"] if isinstance(entry, dict)]
    return part["pip"]


@pytest.mark.parametrize("name", ["requirements/cpu.txt", "environment.yml"])
def test_no_host_is_named(root, name):
    text = (root / name).read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_the_lock_fits_pyproject(project, lock):
    for requirement in direct(project):
        version = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_conda_entries_are_valid_specs(conda):
    from rattler import MatchSpec

    specs = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    named = {spec.name.normalized: spec for spec in (MatchSpec(s, strict=True) for s in specs)}
    assert set(named) == {"python", "pip", "graphviz"}
    assert str(named["python"].version) in ("3.11", "3.11.*", "==3.11")


def test_conda_pins_are_the_direct_dependencies_at_the_locks_versions(conda, project, lock):
    *pins, project_itself = pip_part(conda)
    assert project_itself == "-e ."
    wanted = {canonicalize_name(r.name): lock[canonicalize_name(r.name)] for r in direct(project)}
    found = {}
    for requirement in map(Requirement, pins):
        (specifier,) = requirement.specifier
        assert specifier.operator in ("==", "===")
        found[canonicalize_name(requirement.name)] = specifier.version
    assert found == wanted, "run `python requirements/conda.py > environment.yml`"


def test_the_files_are_what_their_generator_prints(root):
    command = [sys.executable, str(root / "requirements/conda.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == (root / "environment.yml").read_text()


def test_the_installed_versions_are_the_locks(lock):
    from importlib.metadata import version

    for name in ("torch", "transformers", "numpy", "faiss-cpu", "snakemake", "pydantic"):
        assert version(name).split("+")[0] == lock[name]


def make(root, *arguments):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return subprocess.run(["make", *arguments], cwd=root, capture_output=True, text=True)


def test_make_without_python_says_what_to_install(root, tmp_path):
    done = make(root, "environment", f"VENV={tmp_path}/venv", "PYTHON=")
    assert done.returncode != 0
    assert "arrag needs Python 3.11 and found none" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_refuses_another_python(root, tmp_path):
    other = tmp_path / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 0); exec(sys.argv[1])"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    other.chmod(0o755)
    done = make(root, "environment", f"VENV={tmp_path}/venv", f"PYTHON={other}")
    assert done.returncode != 0 and not (tmp_path / "venv").exists()
    assert f"arrag needs Python 3.11, but {other} is 3.9; set PYTHON" in done.stderr


def test_the_environment_is_named_by_the_locks_pins_not_by_its_date(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements/cpu.txt"

    def stamp(text):
        lock.write_text(text)
        printed = make(tmp_path, "-n", "environment", "PYTHON=python3").stdout
        return re.search(r"touch (\S+)", printed)[1]

    first = stamp("# made by a\nnumpy==1\n")
    assert stamp("# made by b\nnumpy==1\n") == first
    assert stamp("numpy==2\n") != first
