# Images -> codes -> index: of each database with each tokenizer that some method needs. The store's
# folder keeps finished shards when the job is killed. Checkpoints and prompts are ancient inputs:
# their digest is in the output's name, so their date says nothing.
WORKERS = CONFIG.resources.encode_workers
INDEX_KEY = ("published", "context", "key_hop", "border", "masked_distance")


rule encode_database:
    input:
        unpack(encode_inputs),
    output:
        str(RESULTS / "codes/{tokenizer}/{corpus}/manifest.json"),
    log:
        "logs/encode_database/{tokenizer}-{corpus}.log",
    wildcard_constraints:
        corpus="(?!joined-)[^/]+",
    priority: 10
    threads: CONFIG.resources.threads + WORKERS
    resources:
        **asks("encode", seconds_to_encode),
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": WORKERS or None}),
        shard_size=lambda wildcards: database_of(wildcards).database.shard_size,
    params:
        source=lambda wildcards: source_name(database_of(wildcards).database),
        options=encode_options,
        out=folder_of_output,
    shell:
        "arrag encode {params.source:q} --tokenizer {input.tokenizer:q} --out {params.out:q}"
        " {params.options} --batch-size {resources.batch_size}"
        " --shard-size {resources.shard_size} {resources.workers} > {log:q} 2>&1"


rule build_index:
    input:
        unpack(index_inputs),
    output:
        str(RESULTS / "index/{index}/meta.json"),
    log:
        "logs/build_index/{index}.log",
    priority: 10
    threads: CONFIG.resources.threads
    resources:
        **asks("index"),
    params:
        codes=lambda wildcards, input: Path(input.codes).parent,
        mode=lambda wildcards: index_of(wildcards).mode,
        key=lambda wildcards: options({f: getattr(index_of(wildcards), f) for f in INDEX_KEY}),
        lists=lambda wildcards: options(index_of(wildcards).model_dump(include={"nprobe", "nlist"})),
        seed=CONFIG.seed,
        out=folder_of_output,
    shell:
        "arrag index build --codes {params.codes:q} --out {params.out:q} --mode {params.mode:q}"
        " {params.key} {params.lists} --seed {params.seed} > {log:q} 2>&1"


# Whole images, for methods that retrieve by the prompt.
rule index_images:
    input:
        unpack(image_inputs),
    output:
        str(RESULTS / "image-index/{images}/meta.json"),
    log:
        "logs/index_images/{images}.log",
    priority: 10
    threads: CONFIG.resources.threads + WORKERS
    resources:
        **asks("encode", seconds_to_index_images),
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": WORKERS or None}),
    params:
        source=lambda wildcards: source_name(images_of(wildcards).database),
        images=lambda wildcards: options({"images": images_of(wildcards).database.images}),
        codes=lambda wildcards, input: Path(input.codes).parent,
        clip=lambda wildcards: images_of(wildcards).retrieval_settings.clip,
        out=folder_of_output,
    shell:
        "arrag index images {params.source:q} --codes {params.codes:q} --clip {params.clip:q}"
        " --out {params.out:q} {params.images} --batch-size {resources.batch_size}"
        " {resources.workers} > {log:q} 2>&1"
