# From pictures to Table 1. `snakemake --cores all reports/table1.md` runs what is missing;
# `--configfile FILE` after the target chooses another configuration than config/micro.yaml.
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"


if CONFIG.database and CONFIG.index:

    include: "workflow/rules/database.smk"


if CONFIG.training and CONFIG.index:

    include: "workflow/rules/adapt.smk"


include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "reports/table1.md",
        "reports/samples.png",
    localrule: True
