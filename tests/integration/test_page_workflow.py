"""The page's job, and Snakemake's own report of the run."""

from test_workflow import WHOLE_PLAN, Project, project, template  # noqa: F401

PAGE = "reports/index.html"


def test_the_page_asks_for_the_tables_and_what_it_shows(project):  # noqa: F811
    plan = project.plan(PAGE)
    assert plan["page"] == 1 and plan["table"] == 3 and "gallery" not in plan
    assert plan["score_geneval"] == WHOLE_PLAN["score_geneval"]
    assert plan["encode_database"] == plan["build_index"] == 2  # for Janus and Show-o
    assert plan["sample"] == 6 + 5 + 8  # of the three tables


def test_the_crate_asks_for_the_tables(project):  # noqa: F811
    plan = project.plan("results/crate")
    assert plan["crate"] == 1 and plan["table"] == 3


def finish(project: Project, *targets: str) -> None:  # noqa: F811
    summary = project.snakemake("--summary", *targets).stdout
    for line in summary.split("output_file", 1)[1].splitlines()[1:]:
        path = project.path / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made\n")
    done = project.snakemake("--touch", "--forceall", *targets)
    assert done.returncode == 0, done.stdout


def test_a_finished_run(project):  # noqa: F811
    finish(project, PAGE, "reports/samples.png")
    (project.path / "reports/figures").mkdir()
    (project.path / "reports/figures/figure4.png").write_text("a figure that came later")
    (project.path / "reports/table1.tex").write_text("no part of the page")
    assert project.plan(PAGE) == {"page": 1}
    done = project.snakemake("--report", "run.html", PAGE, "reports/samples.png")
    assert done.returncode == 0, done.stdout
    html = (project.path / "run.html").read_text()
    for words in (
        "no numbers of the paper and not comparable",
        "the judge's verdicts",
        "for readers",
    ):
        assert words in html  # captions and the description
    assert "reports/table1.csv" in html and "reports/samples.png" in html
