# One job a method and benchmark, or `resources.sample_parts` jobs and one that completes what they
# drew. The images are no output of Snakemake's, which would delete them with a killed job: they stay
# in the folder, and the next job goes on from there. run.json, written last, says that the folder is
# complete.


rule sample_part:
    input:
        unpack(sample_inputs),
    output:
        touch(str(RESULTS / "samples/{benchmark}/{run}.parts/{part}-of-{parts}")),
    log:
        "logs/sample_part/{benchmark}/{run}-{part}-of-{parts}.log",
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    threads: CONFIG.resources.threads
    resources:
        **asks("draw", seconds_to_draw_part),
        config=CONFIG_FILE,
        batch_size=options({"batch_size": CONFIG.resources.batch_size}),
        method=lambda wildcards: method_of(wildcards),
    params:
        config_hash=lambda wildcards: CONFIG.config_hash(method_of(wildcards), wildcards.benchmark),
        out=lambda wildcards: RESULTS / f"samples/{wildcards.benchmark}/{wildcards.run}",
    shell:
        "arrag sample --config {resources.config:q} --method {resources.method}"
        " --benchmark {wildcards.benchmark} --out {params.out:q}"
        " --part {wildcards.part}/{wildcards.parts}"
        " {resources.batch_size} > {log:q} 2>&1"


rule sample:
    input:
        unpack(sample_inputs),
        parts=sample_parts,
    output:
        str(RESULTS / "samples/{benchmark}/{run}/run.json"),
    log:
        "logs/sample/{benchmark}/{run}.log",
    wildcard_constraints:
        run=f"(?!{CEILING_RUN}(/|$))[^/]+",
    threads: CONFIG.resources.threads
    resources:
        **asks("draw", seconds_to_draw),
        config=CONFIG_FILE,
        batch_size=options({"batch_size": CONFIG.resources.batch_size}),
        method=lambda wildcards: method_of(wildcards),  # any of the same settings will do
        join=lambda wildcards, input: options({"join": bool(input.parts)}),
    params:
        config_hash=lambda wildcards: CONFIG.config_hash(method_of(wildcards), wildcards.benchmark),
        out=folder_of_output,
    shell:
        "arrag sample --config {resources.config:q} --method {resources.method}"
        " --benchmark {wildcards.benchmark} --out {params.out:q} {resources.join}"
        " {resources.batch_size} > {log:q} 2>&1"


rule sample_ceiling:
    input:
        assets=rules.fetch_assets.output.assets,
        checkpoint=ancient(str(CONFIG.generator_of()[1].checkpoint)),
        prompts=prompts_of,
    output:
        str(RESULTS / "samples/{benchmark}/{run}/run.json"),
    log:
        "logs/sample_ceiling/{benchmark}/{run}.log",
    wildcard_constraints:
        run=CEILING_RUN,
    threads: CONFIG.resources.threads
    resources:
        **asks("draw"),
        config=CONFIG_FILE,
    params:
        ceiling=lambda wildcards: method_of(wildcards),
        out=folder_of_output,
    shell:
        "arrag sample --config {resources.config:q} --method {params.ceiling}"
        " --benchmark {wildcards.benchmark} --out {params.out:q} > {log:q} 2>&1"
