# Pairs -> their retrieval -> adapters. A method that names the folder of an adapter needs nothing of
# this; one that names none is trained here, and `train_adapters` trains every adapter that there can
# be for the configuration's methods into results/. A killed training resumes from the folder
# OUTPUT.work, which is no output: Snakemake would delete it. Adapters are named by what they are
# trained with, so that a change of λ, τ or prompts trains nothing.
PAIRS = "results/pairs/{pairs}/pairs.json"
NEIGHBOURS = "results/neighbours/{neighbours}/manifest.json"
REFERENCES = "results/references/{references}/manifest.json"
ADAPTER = "results/adapters/{kind}-{key}/config.json"


rule train_adapters:
    input:
        unpack(inputs_of("train_adapters")),
    localrule: True


rule make_pairs:
    input:
        unpack(inputs_of(PAIRS)),
    output:
        PAIRS,
    log:
        "logs/make_pairs/{pairs}.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        method=method_of(PAIRS),
    params:
        out=folder_of_output,
    shell:
        "arrag train pairs --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule retrieve_part:
    input:
        unpack(inputs_of(NEIGHBOURS)),
    output:
        touch("results/neighbours/{neighbours}.parts/{part}-of-{parts}"),
    log:
        "logs/retrieve_part/{neighbours}-{part}-of-{parts}.log",
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        method=method_of(NEIGHBOURS),
    params:
        out=argument(NEIGHBOURS, "out"),
    shell:
        "arrag train neighbours --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} --part {wildcards.part}/{wildcards.parts} > {log:q} 2>&1"


# After parts it writes what is missing, which is the manifest alone.
rule retrieve_neighbours:
    input:
        unpack(inputs_of(NEIGHBOURS)),
        parts=parts_of(NEIGHBOURS),
    output:
        NEIGHBOURS,
    log:
        "logs/retrieve_neighbours/{neighbours}.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        method=method_of(NEIGHBOURS),
    params:
        out=folder_of_output,
    shell:
        "arrag train neighbours --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule retrieve_references:
    input:
        unpack(inputs_of(REFERENCES)),
    output:
        REFERENCES,
    log:
        "logs/retrieve_references/{references}.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        method=method_of(REFERENCES),
    params:
        out=folder_of_output,
    shell:
        "arrag train references --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} > {log:q} 2>&1"


rule train_adapter:
    input:
        unpack(inputs_of(ADAPTER)),
    output:
        ADAPTER,
    log:
        "logs/train_adapter/{kind}-{key}.log",
    wildcard_constraints:
        kind="|".join(TRAINING_INPUTS),
        key="[0-9a-f]+",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
        method=method_of(ADAPTER),
        batch_size=CONFIG.resources.train_batch_size,
    params:
        out=folder_of_output,
        work="results/adapters/{kind}-{key}.work",
    shell:
        "arrag train adapter {wildcards.kind} --config {resources.config:q} --method {resources.method}"
        " --out {params.out:q} --work-dir {params.work:q} --batch-size {resources.batch_size}"
        " --gpus {resources.gpu} > {log:q} 2>&1"
