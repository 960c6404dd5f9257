# A database of several corpora: list -> choose -> encode in parts -> join. Nothing here names the
# corpora's own files as inputs: a run can be planned without them, and a job that misses one says so.
from arrag.layout_parts import parts_of, prints_of


@cache
def parts_by_file():
    """(part, tokenizer's method) by each file that is made of a part."""
    found = {}
    for method in CONFIG.methods:
        resolved = CONFIG.resolved(method)
        if "codes" in made_parts(method) and resolved.database.sources:
            for part in told_plainly(parts_of, LAYOUT, method):
                for path in (part.listed, part.choice, part.store / "manifest.json"):
                    found.setdefault(str(path), (part, method))
    return found


def made_parts(method):
    """The parts of the layout that are made for a method; none when its weights are missing."""
    try:
        return LAYOUT.made_for(method)
    except ArragError:
        return {}


def part_of_output(output):
    """The part that a rule's output belongs to, and a method that it is made for."""
    if str(output) not in parts_by_file():
        give_up(f"{CONFIG_FILE}: no method of it makes {output}")
    return parts_by_file()[str(output)]


def lists_of_choice(wildcards):
    """The lists of all parts of a corpus."""
    path = str(RESULTS / f"corpora/{wildcards.corpus}/choice-{wildcards.images}.json")
    part, _ = part_of_output(path)
    return [str(part.listed.with_name(f"{i:05d}.npz")) for i in range(part.of)]


def part_store(wildcards):
    store = f"code-parts/{wildcards.tokenizer}/{wildcards.corpus}/{wildcards.part}/manifest.json"
    return part_of_output(RESULTS / store)


def part_inputs(wildcards):
    part, method = part_store(wildcards)
    resolved = CONFIG.resolved(method)
    inputs = {"choice": str(part.choice), "tokenizer": made_path(resolved.tokenizer)}
    if resolved.database.exclude:
        inputs["exclude"] = str(told_plainly(prints_of, LAYOUT, resolved.database))
    return inputs


def join_inputs(wildcards):
    method = method_for("codes", f"{wildcards.tokenizer}/{wildcards.corpus}")
    return [str(part.store / "manifest.json") for part in told_plainly(parts_of, LAYOUT, method)]


def excluded_sources(wildcards):
    """The test images whose fingerprints {key} holds."""
    for method in CONFIG.methods:
        database = CONFIG.resolved(method).database
        if database and database.exclude:
            prints = told_plainly(prints_of, LAYOUT, database)
            if prints.name == f"{wildcards.key}.prints.npz":
                return list(database.exclude)
    give_up(f"{CONFIG_FILE}: no database of it excludes the test images {wildcards.key}")


rule list_corpus:
    output:
        str(RESULTS / "corpora/{corpus}/{part}.npz"),
    log:
        "logs/list_corpus/{corpus}-{part}.log",
    wildcard_constraints:
        corpus="[^/]+",
        part="[0-9]+",
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
    params:
        parts=lambda wildcards, input: [Path(path).parent for path in input],
        out=folder_of_output,
    shell:
        "arrag corpus join {params.parts:q} --out {params.out:q} > {log:q} 2>&1"
