"""The documentation's commands and code: every one is parsed, and those marked are run."""

import contextlib
import io
import re
import shlex
import shutil

import pytest

from arrag.cli.main import build_app, main

BLOCK = re.compile(r"(<!-- runs -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def pages(root):
    """All pages: the README, and the site without its generated parts."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in found if not {"_build", "_generated"} & set(page.parts)]


def blocks(page, language):
    """(whether it is to be run, text) of the code blocks of a page in one language."""
    for runs, found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if found == language:
            yield bool(runs), text


def commands(text):
    """The lines of a shell block that call arrag, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["arrag"]:
            yield words[1:]


def test_every_command_of_the_documentation_parses(root):
    seen = 0
    for page in pages(root):
        for _, text in blocks(page, "bash"):
            for words in commands(text):
                words = [word for word in words if word != "--json"]
                with contextlib.redirect_stdout(io.StringIO()):
                    build_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)
                seen += 1
    assert seen > 20


def test_every_link_between_pages_leads_somewhere(root):
    for page in pages(root):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.fixture(scope="module")
def project(root, assets, tmp_path_factory):
    """A folder with what the marked commands name: images, and the shipped checkpoints."""
    from PIL import Image

    from arrag.data.micro.world import MicroWorld

    folder = tmp_path_factory.mktemp("docs")
    for name in ("checkpoints", "config", "benchmarks"):
        (folder / name).symlink_to(root / name)
    (folder / "data").symlink_to(root / "data")
    world = MicroWorld(assets)
    for name, start, count in (
        ("my_images", 0, 24),
        ("more_images", 24, 8),
        ("test_images", 20, 4),
    ):
        (folder / name).mkdir()
        for i in range(start, start + count):
            Image.fromarray(world.scene("database", i).image).save(folder / name / f"{i:03}.png")
    shutil.copytree(folder / "my_images", folder / "generated")
    shutil.copytree(folder / "more_images", folder / "reference")
    return folder


def test_the_marked_commands_run(root, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    ran = 0
    for page in pages(root):
        for runs, text in blocks(page, "bash"):
            for words in commands(text) if runs else ():
                assert main(words) == 0, f"{page}: {words}: {capsys.readouterr().err}"
                ran += 1
    assert ran > 5
