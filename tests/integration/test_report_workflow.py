"""The plan of ablations, Table 4, figures, page and crate: what is shared is made once."""

import re

import pytest

CI = ("--configfile", "config/micro-ci.yaml")
PAGE = "reports/index.html"


def test_a_grid_shares_its_points_with_the_rows_of_a_table(workflow_project):
    plan = workflow_project.plan("reports/ablation_daid.md", *CI)
    # Two λ by two τ, one of them the row's own setting, and the baseline.
    wanted = {"sample": 5, "score_geneval": 5, "ablation": 1, "build_index": 1}
    assert {name: plan[name] for name in wanted} == wanted
    both = workflow_project.plan("reports/table1.md", "reports/ablation_daid.md", *CI)
    assert both["sample"] == 6 + 3 and both["score_geneval"] == 8 + 3
    assert both["encode_database"] == both["build_index"] == 1
    assert "did you mean" in workflow_project.error("reports/ablation_diad.md", *CI)


def test_equal_settings_in_two_grids_are_one_job(workflow_project):
    names = ("daid", "daid-k", "key-hop", "border", "index", "official")
    plan = workflow_project.plan(*(f"reports/ablation_{name}.md" for name in names))
    # daid 20; of the others, what is not the row's own setting: 4 K, 2 hops, 1 border, exact,
    # 1 list probed, product-quantised, and three official ones; and the baseline.
    assert plan["sample"] == 20 + 4 + 2 + 1 + 3 + 3 + 1
    # the row's; 2 hops, the other border, exact, 1 list probed, product-quantised with 32 and 1
    assert plan["encode_database"] == 1 and plan["build_index"] == 8
    assert not {"train_adapter", "make_pairs"} & set(plan)  # λ, τ and K train nothing


def test_trainings_share_pairs_and_neighbours(workflow_project):
    plan = workflow_project.plan("reports/ablation_faid.md", *CI)
    assert (plan["train_adapter"], plan["sample"]) == (4, 5)
    shared = ("make_pairs", "retrieve_neighbours", "build_index", "encode_database")
    assert all(plan[name] == 1 for name in shared)


def test_table_4_needs_models_and_indexes_but_no_samples(workflow_project):
    def timing():
        plan = workflow_project.plan("reports/table4.md", *CI)
        shared = {"encode_database": 2, "build_index": 2, "index_images": 1, "fetch_assets": 1}
        assert plan == shared | {"time_rows": 1, "table4": 1}  # two for Janus and Show-o
        return set(re.findall(r"results/timing/\S+\.json", workflow_project.said))

    first, config = timing(), workflow_project.path / "config/micro-ci.yaml"
    text = config.read_text()
    config.write_text(text.replace("label: + DAiD", "label: DAiD"))
    assert timing() == first
    config.write_text(text.replace("k: 20", "k: 21"))
    assert timing() != first


def test_the_folder_of_figures_needs_all_of_them(workflow_project):
    plan = workflow_project.plan("reports/figures", *CI)
    once = ("figure5", "figures", "ablation", "index_images")
    assert plan["figure"] == 3 and all(plan[name] == 1 for name in once)  # 4, 6 and 7
    # vanilla, DAiD and FAiD for figure 4, three more points for figure 7; figure 5 draws by itself
    assert plan["sample"] == 6 and "train_adapter" not in plan


@pytest.mark.parametrize("figure, start, end", [
    ("figure5", "  racm3:", "  daid:\n    label"), ("figure7", "grids:", "timing:"),
])  # fmt: skip
def test_a_figure_without_what_it_shows_is_one_line(workflow_project, figure, start, end):
    config = workflow_project.path / "config/micro-ci.yaml"
    text = config.read_text().replace("  maps: [daid]\n", "")
    config.write_text(text[: text.index(start)] + text[text.index(end) :])
    assert f"{figure}: " in workflow_project.error(f"results/figures/{figure}.png", *CI)
    if figure == "figure5":  # the folder's page says why it is missing
        plan = workflow_project.plan("reports/figures", *CI)
        assert figure not in plan and plan["figure"] == 3


def test_the_page_and_the_crate_need_the_tables(workflow_project):
    plan = workflow_project.plan(PAGE)
    assert plan["page"] == 1 and plan["table"] == 3 and "gallery" not in plan
    assert plan["encode_database"] == plan["build_index"] == 2  # for Janus and Show-o
    assert plan["sample"] == 6 + 5 + 8  # of the three tables
    plan = workflow_project.plan("results/crate")
    assert plan["crate"] == 1 and plan["table"] == 3


def test_the_page_follows_other_reports_and_snakemake_reports_the_run(workflow_project):
    path = workflow_project.path
    workflow_project.finish(PAGE, "reports/samples.png")
    assert workflow_project.plan(PAGE) == {}
    (path / "reports/figures").mkdir()
    (path / "reports/figures/figure4.png").write_text("a figure that came later")
    (path / "reports/table1.tex").write_text("no part of the page")
    assert workflow_project.plan(PAGE) == {"page": 1}
    done = workflow_project.snakemake("--report", "run.html", PAGE, "reports/samples.png")
    assert done.returncode == 0, done.stdout
    html = (path / "run.html").read_text()
    assert "reports/table1.csv" in html and "reports/samples.png" in html
    assert "not comparable" in html  # a caption
