# The parts of a database of several corpora, found by the names of what is made of them.
from arrag.pipeline.layout_parts import parts_of, prints_of


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
