"""The real workflow, killed at random moments: the same bytes, and nothing whole is made again.

``ARRAG_CHAOS_KILLS=20 pytest tests/slow/test_chaos.py -s`` kills more often, with more methods.
"""

import os
import random

import pytest
from small_project import METHODS, SmallProject

KILLS = int(os.environ.get("ARRAG_CHAOS_KILLS", "3"))


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, assets):
    methods = tuple(METHODS) if KILLS >= 20 else ("daid", "faid")
    return SmallProject(tmp_path_factory.mktemp("chaos") / "project", root, assets, methods)


def check_kept(before, after):
    """What was whole is there still, the same file."""
    changed = {name for name in before if after.get(name) != before[name]}
    assert not changed, sorted(changed)


@pytest.mark.timeout(1200 + 300 * KILLS)
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(project):
    said = project.run_two_at_once()
    assert sum("works in this folder; waiting" in text for text in said) == 1, said
    assert sum("Nothing to be done" in text for text in said) == 1, said
    assert project.left_over() == []
    expected, count = project.products(), len(project.whole())
    project.clean()

    moments, kills, finished, kept = random.Random(0), 0, 0, {}
    while kills < KILLS:
        # Every third time its jobs live on, and meet those of the next run.
        files, seconds = moments.randint(0, 2 * len(expected) // KILLS), moments.uniform(0, 3)
        killed = project.kill_after(files, seconds, alone=kills % 3 == 2)
        now = project.whole()
        check_kept(kept, now)
        kept, kills = now, kills + killed
        print(f"kill {kills}: {len(kept)} of {count} files whole", flush=True)
        if not killed:
            assert project.products() == expected
            project.clean()  # and begin again
            kept, finished = {}, finished + 1
    project.start().finish()
    assert project.products() == expected
    check_kept(kept, project.whole())
    assert "Nothing to be done" in project.start().finish()
    print(f"{kills} kills, {finished} runs ended before theirs, {len(kept)} files kept to the end")
    assert project.left_over() == []
