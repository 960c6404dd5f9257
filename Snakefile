# From pictures to Tables 1, 2 and 3. `snakemake --cores all reports/table1.md` runs what is missing;
# `--configfile FILE` after the target chooses another configuration than config/micro.yaml.
#
# To find how a file is made: its rule is in the module of workflow/rules named by the stage; the
# rule's shell names the command (`arrag report table 1`), whose module in arrag/cli calls the library.
# What the rule's output needs, and the arguments of the command, are in arrag/pipeline/plan.py.
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/database.smk"
include: "workflow/rules/train_adapters.smk"
include: "workflow/rules/train_micro.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/reports.smk"
include: "workflow/rules/figures.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        [f"reports/{table}.md" for table in tables_of(CONFIG)],
        "reports/samples.png",
    localrule: True
