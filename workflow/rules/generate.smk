# One job a method and benchmark. The images are no output of Snakemake's,
# which would delete them with a killed job: they stay in the folder, and the next job goes on from
# there. run.json, written last, says that the folder is complete.


rule sample:
    input:
        unpack(sample_inputs),
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
        batch_size=CONFIG.resources.batch_size,
        method=lambda wildcards: method_of(wildcards),  # any of the same settings will do
    params:
        config_hash=lambda wildcards: CONFIG.config_hash(method_of(wildcards), wildcards.benchmark),
        out=folder_of_output,
    shell:
        "arrag sample --config {resources.config:q} --method {resources.method}"
        " --benchmark {wildcards.benchmark} --out {params.out:q}"
        " --batch-size {resources.batch_size} > {log:q} 2>&1"


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
