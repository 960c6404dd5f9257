# Pairs -> their retrieval -> adapters. A method that names the folder of an adapter needs nothing of
# this; one that names none is trained here, and `train_adapters` trains every kind there is in the
# configuration's methods into results/. A killed training goes on from the folder beside its output,
# which is no output: Snakemake would delete it. Adapters are named by what they are trained with, so
# that a change of λ, τ or prompts trains nothing.
MICRO_PAIRS = CONFIG.training.source == MICRO


rule train_adapters:
    input:
        lambda wildcards: [f"{adapter_of(kind)}/config.json" for kind in sorted(ADAPTER_KINDS)],
    localrule: True


rule make_pairs:
    input:
        assets=rules.fetch_assets.output.assets if MICRO_PAIRS else [],
        tokenizer=ancient(str(CONFIG.backbone.checkpoint)),
    output:
        str(RESULTS / "pairs/{pairs}/pairs.json"),
    log:
        "logs/make_pairs/{pairs}.log",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
    params:
        out=folder_of_output,
    shell:
        "arrag train pairs --config {resources.config:q} --out {params.out:q} > {log:q} 2>&1"


rule retrieve_neighbours:
    input:
        pairs=lambda wildcards: f"{path_of('pairs')}/pairs.json",
        index=lambda wildcards: f"{path_of('index')}/meta.json",
    output:
        str(RESULTS / "neighbours/{neighbours}/manifest.json"),
    log:
        "logs/retrieve_neighbours/{neighbours}.log",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
    params:
        out=folder_of_output,
    shell:
        "arrag train retrieve --config {resources.config:q} --out {params.out:q} > {log:q} 2>&1"


rule retrieve_references:
    input:
        pairs=lambda wildcards: f"{path_of('pairs')}/pairs.json",
        index=lambda wildcards: f"{path_of('image_index', next(iter(CLIPS)))}/meta.json",
    output:
        str(RESULTS / "references/{references}/manifest.json"),
    log:
        "logs/retrieve_references/{references}.log",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
    params:
        out=folder_of_output,
    shell:
        "arrag train references --config {resources.config:q} --out {params.out:q} > {log:q} 2>&1"


rule train_adapter:
    input:
        unpack(adapter_inputs),
    output:
        str(RESULTS / "adapters/{kind}-{key}/config.json"),
    log:
        "logs/train_adapter/{kind}-{key}.log",
    wildcard_constraints:
        kind="finetune|faid|racm3",
        key="[0-9a-f]+",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
        batch_size=CONFIG.resources.train_batch_size,
    params:
        out=folder_of_output,
        work=lambda wildcards, output: f"{Path(output[0]).parent}.work",
    shell:
        "arrag train {wildcards.kind} --config {resources.config:q} --out {params.out:q}"
        " --work-dir {params.work:q} --batch-size {resources.batch_size} > {log:q} 2>&1"
