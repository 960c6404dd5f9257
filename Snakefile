# From pictures to Tables 1, 2 and 3. `snakemake --cores all reports/table1.md` runs what is missing;
# `--configfile FILE` after the target chooses another configuration than config/micro.yaml.
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/made.smk"
include: "workflow/rules/parts.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/hub.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/database.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/timing.smk"
include: "workflow/rules/grids.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/page.smk"
include: "workflow/rules/crate.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        [f"reports/{table}.md" for table in tables_of(CONFIG)],
        "reports/samples.png",
    localrule: True
