# What judges and metrics say of samples. The digest of a judge, or of a metric's settings, is in the
# score's name. Scores wait for samples, which take ten times as long: short jobs fill what cores are
# left in the end.
GENEVAL = "results/scores/{benchmark}/geneval-{judge}/{run}.json"
DPG = "results/scores/{benchmark}/dpg-{judge}/{run}.json"
DISTANCE = "results/scores/{benchmark}/{metric}-{judge}/{run}.json"
REFERENCE = "results/reference/{benchmark}-{key}/meta_data.json"
DISTANCES = {*METRICS} | {
    metric
    for benchmark in CONFIG.benchmarks.values()
    if benchmark.kind == "distribution"
    for metric in benchmark.metrics.wanted
}
STATISTICS = "results/reference-statistics/{benchmark}/{metric}-{judge}.npz"


rule score_geneval:
    input:
        unpack(inputs_of(GENEVAL)),
    output:
        score=GENEVAL,
        records="results/scores/{benchmark}/geneval-{judge}/{run}.jsonl",
    log:
        "logs/score_geneval/{benchmark}-{judge}-{run}.log",
    priority: -1
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        images="results/samples/{benchmark}/{run}",
    shell:
        "arrag score geneval --images {params.images:q} --prompts {input.prompts:q}"
        " --detector {input.detector:q} --color {input.color:q}"
        " --out {output.score:q} --verdicts {output.records:q} > {log:q} 2>&1"


rule score_dpg:
    input:
        unpack(inputs_of(DPG)),
    output:
        score=DPG,
        answers="results/scores/{benchmark}/dpg-{judge}/{run}.answers.csv",
    log:
        "logs/score_dpg/{benchmark}-{judge}-{run}.log",
    priority: -1
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        images="results/samples/{benchmark}/{run}",
        judge=argument(DPG, "judge"),
        rules=argument(DPG, "rules"),
        images_per_prompt=argument(DPG, "images_per_prompt"),
    shell:
        "arrag score dpg --images {params.images:q} --questions {input.questions:q} {params.judge}"
        " {params.rules} --images-per-prompt {params.images_per_prompt} --out {output.score:q}"
        " --answers-out {output.answers:q} > {log:q} 2>&1"


# The scenes that the prompts describe, as the images that a row is compared with.
rule render_reference:
    input:
        unpack(inputs_of(REFERENCE)),
    output:
        REFERENCE,
    log:
        "logs/render_reference/{benchmark}-{key}.log",
    wildcard_constraints:
        key="[0-9a-f]+",
    params:
        out=folder_of_output,
    shell:
        "python workflow/scripts/micro/prompts.py render {input.prompts:q} --out {params.out:q} > {log:q} 2>&1"


# Of a reference that is downloaded: thirty thousand images need not be looked at for every row.
rule reference_statistics:
    input:
        unpack(inputs_of(STATISTICS)),
    output:
        STATISTICS,
    log:
        "logs/reference_statistics/{benchmark}-{metric}-{judge}.log",
    wildcard_constraints:
        metric="|".join(sorted(DISTANCES)),
        judge="[0-9a-f]+",
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        reference=argument(STATISTICS, "reference"),
        settings=argument(STATISTICS, "settings"),
    shell:
        "arrag fid-stats {params.reference:q} --metric {wildcards.metric} {params.settings}"
        " --out {output:q} > {log:q} 2>&1"


rule score_distance:
    input:
        unpack(inputs_of(DISTANCE)),
    output:
        DISTANCE,
    log:
        "logs/score_distance/{benchmark}-{metric}-{judge}-{run}.log",
    wildcard_constraints:
        metric="|".join(sorted(DISTANCES)),
    priority: -1
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        images="results/samples/{benchmark}/{run}",
        metric=argument(DISTANCE, "metric"),
        reference=argument(DISTANCE, "reference"),
        settings=argument(DISTANCE, "settings"),
    shell:
        "arrag score {params.metric} {params.images:q} {params.reference:q} {params.settings}"
        " --out {output:q} > {log:q} 2>&1"
