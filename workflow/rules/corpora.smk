# A database of several corpora: list -> choose -> encode in parts -> join. Nothing here names the
# corpora's own files as inputs: a run can be planned without them, and a job that misses one says so.


rule list_corpus:
    output:
        str(RESULTS / "corpora/{corpus}/{part}.npz"),
    log:
        "logs/list_corpus/{corpus}-{part}.log",
    wildcard_constraints:
        corpus="[^/]+",
        part="[0-9]+",
    resources:
        **asks("list"),
    params:
        source=lambda wildcards, output: part_of_output(output[0])[0].source,
        seed=lambda wildcards, output: part_of_output(output[0])[0].sample.seed,
    shell:
        "arrag corpus list {params.source:q} --seed {params.seed} --out {output:q} > {log:q} 2>&1"


# Fails when a corpus has fewer images than asked for, before any of them is encoded.
rule choose_images:
    input:
        lists_of_choice,
    output:
        str(RESULTS / "corpora/{corpus}/choice-{images}.json"),
    log:
        "logs/choose_images/{corpus}-{images}.log",
    wildcard_constraints:
        corpus="[^/]+",
        images="all|[0-9]+",
    priority: 20
    resources:
        **asks("list"),
    params:
        seed=lambda wildcards, output: part_of_output(output[0])[0].sample.seed,
        images=lambda wildcards: "" if wildcards.images == "all" else f"--images {wildcards.images}",
    shell:
        "arrag corpus choose {input:q} {params.images} --seed {params.seed} --out {output:q}"
        " > {log:q} 2>&1"


rule hash_test_images:
    input:
        lambda wildcards: weights(*excluded_sources(wildcards)),
    output:
        str(RESULTS / "test-images/{key}.prints.npz"),
    log:
        "logs/hash_test_images/{key}.log",
    wildcard_constraints:
        key="[0-9a-f]+",
    resources:
        **asks("list"),
    params:
        sources=excluded_sources,
    shell:
        "arrag corpus prints {params.sources:q} --out {output:q} > {log:q} 2>&1"


rule encode_part:
    input:
        unpack(part_inputs),
    output:
        str(RESULTS / "code-parts/{tokenizer}/{corpus}/{part}/manifest.json"),
    log:
        "logs/encode_part/{tokenizer}-{corpus}-{part}.log",
    wildcard_constraints:
        tokenizer="[^/]+",
        corpus="[^/]+",
        part="[0-9]+",
    priority: 10
    threads: CONFIG.resources.threads + CONFIG.resources.encode_workers
    resources:
        **asks("encode", seconds_to_encode_part),
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": CONFIG.resources.encode_workers or None}),
        shard_size=lambda wildcards: CONFIG.resolved(part_store(wildcards)[1]).database.shard_size,
    params:
        source=lambda wildcards: part_store(wildcards)[0].source,
        tokenizer=lambda wildcards: CONFIG.resolved(part_store(wildcards)[1]).tokenizer,
        exclude=lambda wildcards, input: options({"exclude": input.get("exclude")}),
        out=folder_of_output,
    shell:
        "arrag encode {params.source:q} --choice {input.choice:q} --tokenizer {params.tokenizer:q}"
        " --out {params.out:q} {params.exclude} --batch-size {resources.batch_size}"
        " --shard-size {resources.shard_size} {resources.workers} > {log:q} 2>&1"


rule join_parts:
    input:
        join_inputs,
    output:
        str(RESULTS / "codes/{tokenizer}/{corpus}/manifest.json"),
    log:
        "logs/join_parts/{tokenizer}-{corpus}.log",
    wildcard_constraints:
        tokenizer="[^/]+",
        corpus="joined-[^/]+",
    resources:
        **asks("list"),
    params:
        parts=lambda wildcards, input: [Path(path).parent for path in input],
        out=folder_of_output,
    shell:
        "arrag corpus join {params.parts:q} --out {params.out:q} > {log:q} 2>&1"
