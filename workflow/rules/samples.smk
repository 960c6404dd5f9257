# One job a method and benchmark, or `resources.sample_parts` jobs and one that completes what they
# drew. The images are no output of Snakemake's, which would delete them with a killed job: they stay
# in the folder, and the next job resumes. run.json, written last, says that the folder is
# complete.
SAMPLES = "results/samples/{benchmark}/{run}/run.json"


rule sample_part:
    input:
        unpack(inputs_of(SAMPLES)),
    output:
        touch("results/samples/{benchmark}/{run}.parts/{part}-of-{parts}"),
    log:
        "logs/sample_part/{benchmark}/{run}-{part}-of-{parts}.log",
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        batch_size=options({"batch_size": CONFIG.resources.batch_size}),
        method=method_of(SAMPLES),
    params:
        config_hash=argument(SAMPLES, "config_hash"),
        out=argument(SAMPLES, "out"),
    shell:
        "arrag generate --config {resources.config:q} --method {resources.method}"
        " --benchmark {wildcards.benchmark} --out {params.out:q}"
        " --part {wildcards.part}/{wildcards.parts}"
        " {resources.batch_size} > {log:q} 2>&1"


rule sample:
    input:
        unpack(inputs_of(SAMPLES)),
        parts=parts_of(SAMPLES),
    output:
        SAMPLES,
    log:
        "logs/sample/{benchmark}/{run}.log",
    wildcard_constraints:
        run=f"(?!{CEILING_RUN}(/|$))[^/]+",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        batch_size=options({"batch_size": CONFIG.resources.batch_size}),
        method=method_of(SAMPLES),
        join=argument(SAMPLES, "join"),
    params:
        config_hash=argument(SAMPLES, "config_hash"),
        out=folder_of_output,
    shell:
        "arrag generate --config {resources.config:q} --method {resources.method}"
        " --benchmark {wildcards.benchmark} --out {params.out:q} {resources.join}"
        " {resources.batch_size} > {log:q} 2>&1"


# Real images of the micro world, and the same after the tokenizer.
rule sample_ceiling:
    input:
        unpack(inputs_of(SAMPLES)),
    output:
        SAMPLES,
    log:
        "logs/sample_ceiling/{benchmark}/{run}.log",
    wildcard_constraints:
        run=CEILING_RUN,
    threads: THREADS
    resources:
        config=CONFIG_FILE,
    params:
        ceiling=method_of(SAMPLES),
        out=folder_of_output,
    shell:
        "arrag generate --config {resources.config:q} --method {params.ceiling}"
        " --benchmark {wildcards.benchmark} --out {params.out:q} > {log:q} 2>&1"
