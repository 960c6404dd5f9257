"""The plan of ablations, Table 4 and the figures: what is shared is made once."""

import re

import pytest
from test_workflow import assert_one_line, project, template  # noqa: F401 (fixtures)

CI = ("--configfile", "config/micro-ci.yaml")


def test_a_grid_shares_its_points_with_the_rows_of_a_table(project):  # noqa: F811
    plan = project.plan("reports/ablation_daid.md", *CI)
    # Two λ by two τ, one of them the row's own setting, and the baseline.
    wanted = {"sample": 5, "score_geneval": 5, "ablation": 1, "build_index": 1}
    assert {name: plan[name] for name in wanted} == wanted
    alone = project.plan("reports/table1.md", *CI)
    both = project.plan("reports/table1.md", "reports/ablation_daid.md", *CI)
    assert both["sample"] == alone["sample"] + 3
    assert both["score_geneval"] == alone["score_geneval"] + 3
    assert both["encode_database"] == both["build_index"] == 1


def test_a_sweep_of_lam_and_tau_trains_nothing(project):  # noqa: F811
    plan = project.plan("reports/ablation_daid.md")
    assert plan["sample"] == 21 and plan["score_distance"] == 42
    assert not {"train_adapter", "make_pairs"} & set(plan)


def test_trainings_share_pairs_and_neighbours(project):  # noqa: F811
    plan = project.plan("reports/ablation_faid.md", *CI)
    assert (plan["train_adapter"], plan["sample"]) == (4, 5)
    shared = ("make_pairs", "retrieve_neighbours", "build_index", "encode_database")
    assert all(plan[name] == 1 for name in shared)


def test_equal_settings_in_two_grids_are_one_job(project):  # noqa: F811
    names = ("daid", "daid-k", "key-hop", "border", "index", "official")
    plan = project.plan(*(f"reports/ablation_{name}.md" for name in names))
    # daid 20; of the others, what is not the row's own setting: 4 K, 2 hops, 1 border, exact,
    # 1 list probed, product-quantised, and three official ones; and the baseline.
    assert plan["sample"] == 20 + 4 + 2 + 1 + 3 + 3 + 1
    assert plan["encode_database"] == 1
    # the row's; 2 hops, the other border, exact, 1 list probed, product-quantised with 32 and 1
    assert plan["build_index"] == 8


def test_a_point_that_becomes_a_row_is_not_made_again(project):  # noqa: F811
    first = re.findall(r"samples/geneval/daid-\w+", _said(project))
    text = "lam: 0.1\n      tau: 0.2"
    config = project.path / "config/micro-ci.yaml"
    assert text in config.read_text()
    config.write_text(config.read_text().replace(text, "lam: 0.5\n      tau: 0.2"))
    assert set(re.findall(r"samples/geneval/daid-\w+", _said(project))) == set(first)


def _said(project):  # noqa: F811
    project.plan("reports/ablation_daid.md", *CI)
    return project.said


def test_an_unknown_grid_is_one_line(project):  # noqa: F811
    done = project.snakemake("--dry-run", "reports/ablation_diad.md", *CI)
    assert_one_line(done, r"no such grid 'diad'; did you mean 'daid'\?")


def test_table_4_needs_models_and_indexes_but_no_samples(project):  # noqa: F811
    plan = project.plan("reports/table4.md", *CI)
    wanted = {"encode_database": 2, "build_index": 2, "index_images": 1, "fetch_assets": 1}
    assert plan == wanted | {"time_rows": 1, "table4": 1}  # two for Janus and Show-o


def test_a_label_times_nothing_again_and_a_setting_does(project):  # noqa: F811
    def timing():
        project.plan("reports/table4.md", *CI)
        return set(re.findall(r"results/timing/\S+\.json", project.said))

    first, config = timing(), project.path / "config/micro-ci.yaml"
    text = config.read_text()
    config.write_text(text.replace("label: + DAiD", "label: DAiD"))
    assert timing() == first
    config.write_text(text.replace("k: 20", "k: 21"))
    assert timing() != first


def test_the_page_of_figures_needs_all_of_them(project):  # noqa: F811
    plan = project.plan("reports/figures", *CI)
    once = ("figure4", "figure5", "figure6", "figure7", "figures", "ablation", "index_images")
    assert all(plan[name] == 1 for name in once)
    # vanilla, DAiD and FAiD for figure 4, three more points for figure 7; figure 5 draws by itself
    assert plan["sample"] == 6 and "train_adapter" not in plan


CUT = {  # figure: what is taken out of the file, and what is said
    "figure5": ("  racm3:", "  daid:\n    label", "methods: needs one with augment.kind racm3"),
    "figure6": ("  mjhq:", "scorers:", "benchmarks: needs one of kind distribution"),
    "figure7": ("grids:", "timing:", "grids: needs one of two paths"),
}


@pytest.mark.parametrize("figure", CUT)
def test_a_figure_without_what_it_shows_is_one_line(project, figure):  # noqa: F811
    start, end, message = CUT[figure]
    config = project.path / "config/micro-ci.yaml"
    text = config.read_text().replace("  maps: [daid]\n", "")
    text = text[: text.index(start)] + text[text.index(end) :]
    if figure == "figure6":  # and the rows of that table alone
        text = text[: text.index("  showo:\n    label")] + text[text.index("grids:") :]
    config.write_text(text)
    done = project.snakemake("--dry-run", f"results/figures/{figure}.png", *CI)
    assert_one_line(done, f"{figure}: {message}")
    if figure != "figure7":  # which would now also train the other grid's adapters
        plan = project.plan("reports/figures", *CI)  # it says why one is missing
        assert figure not in plan and "figure4" in plan
