# Pairs -> their retrieval -> adapters. A method that names the folder of an adapter needs nothing of
# this; one that names none is trained here, and `train_adapters` trains every adapter that there can
# be for the configuration's methods into results/. A killed training goes on from the folder beside
# its output, which is no output: Snakemake would delete it. Adapters are named by what they are
# trained with, so that a change of λ, τ or prompts trains nothing. The method handed on is a
# resource: any method of the same training will do.


rule train_adapters:
    input:
        adapters_wanted,
    localrule: True


rule make_pairs:
    input:
        unpack(pairs_inputs),
    output:
        str(RESULTS / "pairs/{pairs}/pairs.json"),
    log:
        "logs/make_pairs/{pairs}.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("encode"),
        config=CONFIG_FILE,
        method=lambda wildcards: method_for("pairs", wildcards.pairs),
    params:
        out=folder_of_output,
    shell:
        "arrag train pairs --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule retrieve_part:
    input:
        unpack(lambda wildcards: inputs_for("neighbours", wildcards.neighbours, "pairs", "index")),
    output:
        touch(str(RESULTS / "neighbours/{neighbours}.parts/{part}-of-{parts}")),
    log:
        "logs/retrieve_part/{neighbours}-{part}-of-{parts}.log",
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    threads: CONFIG.resources.threads
    resources:
        **asks("search"),
        config=CONFIG_FILE,
        method=lambda wildcards: method_for("neighbours", wildcards.neighbours),
    params:
        out=lambda wildcards: RESULTS / f"neighbours/{wildcards.neighbours}",
    shell:
        "arrag train retrieve --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} --part {wildcards.part}/{wildcards.parts} > {log:q} 2>&1"


# After parts it writes what is missing, which is the manifest alone.
rule retrieve_neighbours:
    input:
        unpack(lambda wildcards: inputs_for("neighbours", wildcards.neighbours, "pairs", "index")),
        parts=retrieve_parts,
    output:
        str(RESULTS / "neighbours/{neighbours}/manifest.json"),
    log:
        "logs/retrieve_neighbours/{neighbours}.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("search"),
        config=CONFIG_FILE,
        method=lambda wildcards: method_for("neighbours", wildcards.neighbours),
    params:
        out=folder_of_output,
    shell:
        "arrag train retrieve --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule retrieve_references:
    input:
        unpack(
            lambda wildcards: inputs_for(
                "references", wildcards.references, "pairs", "image_index"
            )
        ),
    output:
        str(RESULTS / "references/{references}/manifest.json"),
    log:
        "logs/retrieve_references/{references}.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("search"),
        config=CONFIG_FILE,
        method=lambda wildcards: method_for("references", wildcards.references),
    params:
        out=folder_of_output,
    shell:
        "arrag train references --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule train_adapter:
    input:
        unpack(adapter_inputs),
    output:
        str(RESULTS / "adapters/{kind}-{key}/config.json"),
    log:
        "logs/train_adapter/{kind}-{key}.log",
    wildcard_constraints:
        kind="|".join(TRAINS_ON),
        key="[0-9a-f]+",
    threads: CONFIG.resources.threads
    resources:
        **asks("train"),
        config=CONFIG_FILE,
        method=lambda wildcards: method_for("trained_adapter", f"{wildcards.kind}-{wildcards.key}"),
        batch_size=CONFIG.resources.train_batch_size,
    params:
        out=folder_of_output,
        work=lambda wildcards, output: f"{Path(output[0]).parent}.work",
    shell:
        "arrag train {wildcards.kind} --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} --work-dir {params.work:q} --batch-size {resources.batch_size}"
        " --gpus {resources.gpu} > {log:q} 2>&1"
