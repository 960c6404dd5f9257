# Images -> codes -> index. The store's folder keeps finished shards when the job is killed.
# Checkpoints and prompts are ancient inputs: their digest is in the output's name, so their date
# says nothing.
MICRO_DATABASE = CONFIG.database.source == MICRO


rule encode_database:
    input:
        assets=rules.fetch_assets.output.assets if MICRO_DATABASE else [],
        tokenizer=ancient(str(CONFIG.backbone.checkpoint)),
    output:
        str(RESULTS / "codes/{tokenizer}/{corpus}/manifest.json"),
    log:
        "logs/encode_database/{tokenizer}-{corpus}.log",
    priority: 10  # the longest chain starts here
    threads: CONFIG.resources.threads
    resources:
        batch_size=CONFIG.resources.encode_batch_size,
        shard_size=CONFIG.database.shard_size,
    params:
        source="micro:database" if MICRO_DATABASE else CONFIG.database.source,
        images=f"--images {CONFIG.database.images}" if CONFIG.database.images else "",
        out=folder_of_output,
    shell:
        "arrag encode {params.source:q} --tokenizer {input.tokenizer:q} --out {params.out:q}"
        " {params.images} --batch-size {resources.batch_size} --shard-size {resources.shard_size}"
        " > {log:q} 2>&1"


rule build_index:
    input:
        codes=lambda wildcards: f"{path_of('codes')}/manifest.json",
    output:
        str(RESULTS / "index/{index}/meta.json"),
    log:
        "logs/build_index/{index}.log",
    priority: 10
    threads: CONFIG.resources.threads
    params:
        codes=lambda wildcards, input: Path(input.codes).parent,
        mode=CONFIG.index.mode,
        key=f"--context {CONFIG.index.context} --key-hop {CONFIG.index.key_hop}"
        f" --border {CONFIG.index.border}",
        lists=f"--nprobe {CONFIG.index.nprobe}"
        + (f" --nlist {CONFIG.index.nlist}" if CONFIG.index.nlist else ""),
        seed=CONFIG.seed,
        out=folder_of_output,
    shell:
        "arrag index build --codes {params.codes:q} --out {params.out:q} --mode {params.mode}"
        " {params.key} {params.lists} --seed {params.seed} > {log:q} 2>&1"


# Whole images, for methods that retrieve by the prompt.
rule index_images:
    input:
        codes=lambda wildcards: f"{path_of('codes')}/manifest.json",
        assets=rules.fetch_assets.output.assets if MICRO_DATABASE else [],
    output:
        str(RESULTS / "image-index/{clip}-{key}/meta.json"),
    log:
        "logs/index_images/{clip}-{key}.log",
    wildcard_constraints:
        key="[0-9a-f]+",
    threads: CONFIG.resources.threads
    resources:
        batch_size=CONFIG.resources.encode_batch_size,
    params:
        source="micro:database" if MICRO_DATABASE else CONFIG.database.source,
        images=f"--images {CONFIG.database.images}" if CONFIG.database.images else "",
        codes=lambda wildcards, input: Path(input.codes).parent,
        clip=lambda wildcards: image_retriever(wildcards.clip),
        out=folder_of_output,
    shell:
        "arrag index images {params.source:q} --codes {params.codes:q} --clip {params.clip:q}"
        " --out {params.out:q} {params.images} --batch-size {resources.batch_size} > {log:q} 2>&1"
