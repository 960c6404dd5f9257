# Images -> codes -> index: of each database with each tokenizer that some method needs. The store's
# folder keeps finished shards when the job is killed.
#
# A database of several corpora: list -> choose -> encode in parts -> join. The corpora's own files
# are no inputs: a run can be planned without them, and a job that misses one says so.
LIST = "results/corpora/{corpus}/{part}.npz"
CHOICE = "results/corpora/{corpus}/choice-{images}.json"
TEST_IMAGES = "results/test-images/{key}.prints.npz"
PART = "results/code-parts/{tokenizer}/{corpus}/{part}/manifest.json"
CODES = "results/codes/{tokenizer}/{corpus}/manifest.json"
INDEX = "results/index/{index}/meta.json"
IMAGE_INDEX = "results/image-index/{images}/meta.json"


rule encode_database:
    input:
        unpack(inputs_of(CODES)),
    output:
        CODES,
    log:
        "logs/encode_database/{tokenizer}-{corpus}.log",
    wildcard_constraints:
        corpus="(?!joined-)[^/]+",
    priority: 10
    threads: THREADS + WORKERS
    resources:
        gpu=GPUS,
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": WORKERS or None}),
        shard_size=argument(CODES, "shard_size"),
    params:
        source=argument(CODES, "source"),
        tokenizer=argument(CODES, "tokenizer"),
        options=argument(CODES, "options"),
        out=folder_of_output,
    shell:
        "arrag db encode {params.source:q} --tokenizer {params.tokenizer:q} --out {params.out:q}"
        " {params.options} --batch-size {resources.batch_size}"
        " --shard-size {resources.shard_size} {resources.workers} > {log:q} 2>&1"


rule list_corpus:
    output:
        LIST,
    log:
        "logs/list_corpus/{corpus}-{part}.log",
    wildcard_constraints:
        corpus="[^/]+",
        part="[0-9]+",
    params:
        source=argument(LIST, "source"),
        seed=argument(LIST, "seed"),
    shell:
        "arrag db scan {params.source:q} --seed {params.seed} --out {output:q} > {log:q} 2>&1"


# Fails when a corpus has fewer images than asked for, before any of them is encoded.
rule choose_images:
    input:
        unpack(inputs_of(CHOICE)),
    output:
        CHOICE,
    log:
        "logs/choose_images/{corpus}-{images}.log",
    wildcard_constraints:
        corpus="[^/]+",
        images="all|[0-9]+",
    priority: 20
    params:
        seed=argument(CHOICE, "seed"),
        images=argument(CHOICE, "images"),
    shell:
        "arrag db subsample {input.lists:q} {params.images} --seed {params.seed} --out {output:q}"
        " > {log:q} 2>&1"


rule hash_test_images:
    input:
        unpack(inputs_of(TEST_IMAGES)),
    output:
        TEST_IMAGES,
    log:
        "logs/hash_test_images/{key}.log",
    wildcard_constraints:
        key="[0-9a-f]+",
    params:
        sources=argument(TEST_IMAGES, "sources"),
    shell:
        "arrag db fingerprint {params.sources:q} --out {output:q} > {log:q} 2>&1"


rule encode_part:
    input:
        unpack(inputs_of(PART)),
    output:
        PART,
    log:
        "logs/encode_part/{tokenizer}-{corpus}-{part}.log",
    wildcard_constraints:
        tokenizer="[^/]+",
        corpus="[^/]+",
        part="[0-9]+",
    priority: 10
    threads: THREADS + WORKERS
    resources:
        gpu=GPUS,
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": WORKERS or None}),
        shard_size=argument(PART, "shard_size"),
    params:
        source=argument(PART, "source"),
        tokenizer=argument(PART, "tokenizer"),
        exclude=argument(PART, "exclude"),
        out=folder_of_output,
    shell:
        "arrag db encode {params.source:q} --subsample {input.choice:q} --tokenizer {params.tokenizer:q}"
        " --out {params.out:q} {params.exclude} --batch-size {resources.batch_size}"
        " --shard-size {resources.shard_size} {resources.workers} > {log:q} 2>&1"


rule join_parts:
    input:
        unpack(inputs_of(CODES)),
    output:
        CODES,
    log:
        "logs/join_parts/{tokenizer}-{corpus}.log",
    wildcard_constraints:
        tokenizer="[^/]+",
        corpus="joined-[^/]+",
    params:
        parts=argument(CODES, "parts"),
        out=folder_of_output,
    shell:
        "arrag db concat {params.parts:q} --out {params.out:q} > {log:q} 2>&1"


rule build_index:
    input:
        unpack(inputs_of(INDEX)),
    output:
        INDEX,
    log:
        "logs/build_index/{index}.log",
    priority: 10
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        codes=argument(INDEX, "codes"),
        mode=argument(INDEX, "mode"),
        key=argument(INDEX, "key"),
        lists=argument(INDEX, "lists"),
        seed=CONFIG.seed,
        out=folder_of_output,
    shell:
        "arrag index build --codes {params.codes:q} --out {params.out:q} --mode {params.mode:q}"
        " {params.key} {params.lists} --seed {params.seed} > {log:q} 2>&1"


# Whole images, for methods that retrieve by the prompt.
rule index_images:
    input:
        unpack(inputs_of(IMAGE_INDEX)),
    output:
        IMAGE_INDEX,
    log:
        "logs/index_images/{images}.log",
    priority: 10
    threads: THREADS + WORKERS
    resources:
        gpu=GPUS,
        batch_size=CONFIG.resources.encode_batch_size,
        workers=options({"workers": WORKERS or None}),
    params:
        source=argument(IMAGE_INDEX, "source"),
        images=argument(IMAGE_INDEX, "images"),
        codes=argument(IMAGE_INDEX, "codes"),
        clip=argument(IMAGE_INDEX, "clip"),
        out=folder_of_output,
    shell:
        "arrag index images {params.source:q} --codes {params.codes:q} --clip {params.clip:q}"
        " --out {params.out:q} {params.images} --batch-size {resources.batch_size}"
        " {resources.workers} > {log:q} 2>&1"
