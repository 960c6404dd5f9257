# One job a method: its images for the whole benchmark. The images are no output of Snakemake's,
# which would delete them with a killed job: they stay in the folder, and the next job goes on from
# there. run.json, written last, says that the folder is complete.


rule sample:
    input:
        unpack(sample_inputs),
    output:
        str(RESULTS / "samples/{run}/run.json"),
    log:
        "logs/sample/{run}.log",
    wildcard_constraints:
        run=f"(?!{CEILING_RUN}(/|$))[^/]+",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
        batch_size=CONFIG.resources.batch_size,
    params:
        method=lambda wildcards: method_of(wildcards.run),
        config_hash=lambda wildcards: CONFIG.config_hash(method_of(wildcards.run)),
        out=folder_of_output,
    shell:
        "arrag sample --config {resources.config:q} --method {params.method} --out {params.out:q}"
        " --batch-size {resources.batch_size} > {log:q} 2>&1"


rule sample_ceiling:
    input:
        assets=rules.fetch_assets.output.assets,
        checkpoint=ancient(str(CONFIG.backbone.checkpoint)),
        prompts=ancient(str(CONFIG.benchmark.prompts)),
    output:
        str(RESULTS / "samples/{run}/run.json"),
    log:
        "logs/sample_ceiling/{run}.log",
    wildcard_constraints:
        run=CEILING_RUN,
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
    params:
        ceiling=lambda wildcards: method_of(wildcards.run),
        out=folder_of_output,
    shell:
        "arrag sample --config {resources.config:q} --method {params.ceiling} --out {params.out:q}"
        " > {log:q} 2>&1"
