# What a job reads, and which settings its command gets, found by the name of its output.
from arrag.utils.hashing import sha256_file

# The names of the authors' two files, those of arrag.retrieval.faiss_index, which needs FAISS.
PUBLISHED = ("faiss_ivf_pq_opq.index", "next_codes.npy")


def prompts_of(wildcards):
    """The prompt file of a benchmark, whose digest is in every name made from it."""
    return made_path(CONFIG.benchmarks[wildcards.benchmark].prompts)


def database_of(wildcards):
    """The settings of the store {tokenizer}/{corpus}."""
    return CONFIG.resolved(method_for("codes", f"{wildcards.tokenizer}/{wildcards.corpus}"))


def index_of(wildcards):
    """The settings of the index {index}."""
    return CONFIG.resolved(method_for("index", wildcards.index)).index


def source_inputs(database):
    """What must be there before a database can be read."""
    return {"assets": rules.fetch_assets.output.assets} if database.source == MICRO else {}


def source_name(database):
    """A database's source as the command line has it."""
    if getattr(database, "sources", None):
        return [sample.source for sample in database.sources]
    return "micro:database" if database.source == MICRO else database.source


def encode_inputs(wildcards):
    resolved = database_of(wildcards)
    inputs = {"tokenizer": made_path(resolved.tokenizer)}
    if made := fetched(resolved.database):
        inputs["fetched"] = made
    return source_inputs(resolved.database) | inputs


def encode_options(wildcards):
    """One text: an option that is off must leave the params as they were."""
    database = database_of(wildcards).database
    return options({"images": database.images, "exclude": list(database.exclude)})


def index_inputs(wildcards):
    inputs = {"codes": last_file_of("codes", method_for("index", wildcards.index))}
    if published := index_of(wildcards).published:
        inputs["published"] = [str(published / name) for name in PUBLISHED]
    return inputs


def images_of(wildcards):
    """The settings of the index of whole images {images}."""
    return CONFIG.resolved(method_for("image_index", wildcards.images))


def image_inputs(wildcards):
    resolved = images_of(wildcards)
    inputs = {"codes": last_file_of("codes", method_for("image_index", wildcards.images))}
    if made := fetched(resolved.generator, resolved.method):
        inputs["fetched"] = made
    return inputs | source_inputs(resolved.database)


def adapters_wanted(wildcards):
    """The adapters of all methods that can have one."""
    parts = [told_plainly(LAYOUT.made_for, method) for method in CONFIG.methods]
    folders = {made["trained_adapter"] for made in parts if "trained_adapter" in made}
    return sorted(f"{folder}/config.json" for folder in folders)


def pairs_inputs(wildcards):
    resolved = CONFIG.resolved(method_for("pairs", wildcards.pairs))
    tokenizer = {"tokenizer": made_path(resolved.generator.checkpoint)}
    return source_inputs(resolved.training) | tokenizer


def inputs_for(part, name, *parts):
    """The last files of ``parts`` that the method of a folder of ``part`` needs, by part."""
    return {needed: last_file_of(needed, method_for(part, name)) for needed in parts}


def adapter_inputs(wildcards):
    """The generator, and what training this kind of adapter reads."""
    name = f"{wildcards.kind}-{wildcards.key}"
    inputs = inputs_for("trained_adapter", name, *TRAINS_ON[wildcards.kind])
    generator = CONFIG.resolved(method_for("trained_adapter", name)).generator
    return inputs | {"checkpoint": made_path(generator.checkpoint)}


def sample_inputs(wildcards):
    """The prompts, and what this method needs to draw them."""
    return method_inputs(method_of(wildcards)) | {"prompts": prompts_of(wildcards)}


def shared_by(folder, last_file, parts):
    """The marks of the jobs that share the work on a folder; none if one job does it all.

    What is begun in some number of parts stays in it, and what one job made whole stays that job's:
    Snakemake would do finished work again if its inputs were others.
    """
    marks = folder.with_name(f"{folder.name}.parts")
    if begun := next(marks.glob("*-of-*"), None):
        parts = int(begun.name.rpartition("-")[2])
    elif (folder / last_file).exists():
        parts = 1
    return [str(marks / f"{i}-of-{parts}") for i in range(1, parts + 1)] if parts > 1 else []


def sample_parts(wildcards):
    folder = RESULTS / f"samples/{wildcards.benchmark}/{wildcards.run}"
    return shared_by(folder, "run.json", CONFIG.resources.sample_parts.get(wildcards.benchmark, 1))


def retrieve_parts(wildcards):
    folder = RESULTS / f"neighbours/{wildcards.neighbours}"
    return shared_by(folder, LAST_FILES["neighbours"], CONFIG.resources.retrieve_parts)


def method_inputs(method):
    """The generator, and what a method adds to it."""
    resolved = CONFIG.resolved(method)
    inputs = {"checkpoint": made_path(resolved.generator.checkpoint)}
    if made := fetched(resolved.generator, resolved.method):
        inputs["fetched"] = made
    if named := getattr(resolved.generator, "named_paths", None):
        inputs["named"] = weights(*named.values())
    retriever = resolved.retrieval_settings
    if retriever is None:
        return inputs
    for part in RETRIEVES.get(retriever.kind, ()):
        inputs[part] = last_file_of(part, method)
    if resolved.method.is_trained_here:
        inputs["adapter"] = last_file_of("trained_adapter", method)
    elif hasattr(retriever, "adapter") and not asset_path(retriever.adapter, CONFIG.assets):
        inputs["adapter"] = ancient(f"{retriever.adapter}/config.json")
    return inputs


def benchmark_of_table(wildcards):
    """The benchmark that a table shows."""
    kind = TABLES[wildcards.table]
    benchmark = CONFIG.benchmark_of_kind(kind)
    if benchmark is None:
        give_up(
            f"{CONFIG_FILE}: benchmarks: {wildcards.table} needs one of kind {kind}; add one as in "
            "config/micro.yaml"
        )
    return benchmark


def scores_of_table(wildcards):
    """The score files that a table needs: of its own benchmark and of no other."""
    benchmark = benchmark_of_table(wildcards)
    return [
        str(path)
        for name in CONFIG.row_labels(benchmark)
        for path in told_plainly(LAYOUT.scores, name, benchmark).values()
    ]


def scores_of_grid(wildcards):
    """The scores of a grid's points and of its baseline."""
    grid = told_plainly(get_grid, CONFIG, wildcards.grid)
    methods = told_plainly(grid_methods, CONFIG, wildcards.grid)
    return [
        str(path)
        for method in methods
        for path in told_plainly(LAYOUT.scores, method, grid.benchmark).values()
    ]


def needed_by(methods):
    """All that some methods need to draw."""
    found = [value for method in methods for value in method_inputs(method).values()]
    return [path for value in found for path in (value if isinstance(value, list) else [value])]


def timing_inputs(wildcards):
    """All that the rows of Table 4 need, and their prompts."""
    benchmark = CONFIG.benchmark(CONFIG.timing.benchmark)
    return [*needed_by(timed_methods(CONFIG)), made_path(benchmark.prompts)]


def shown_in(figure, names_of):
    """What a figure shows: methods or grids; one line if the configuration lacks some."""
    if lacks := lacking_for(CONFIG, figure):
        give_up(f"{CONFIG_FILE}: {figure}: {lacks}")
    return names_of(CONFIG)


def held_out_inputs(wildcards):
    """Figure 6's index, and the images that it is asked about."""
    (method,) = shown_in("figure6", lambda config: [find_method(config, "daid")])
    benchmark = CONFIG.benchmark_of_kind("distribution")
    inputs = [last_file_of("codes", method), last_file_of("index", method)]
    if CONFIG.benchmarks[benchmark].reference == MICRO_REFERENCE:
        inputs.append(f"{path_of('reference', benchmark)}/meta_data.json")
    return inputs


def shown():
    """The rows on the contact sheet."""
    return [name for name in CONFIG.row_labels() if name != "reconstructions"]


def metric_of(wildcards):
    """The settings of a distance."""
    return CONFIG.benchmarks[wildcards.benchmark].metrics.wanted[wildcards.metric]


def reference_of_score(wildcards):
    """What a row is compared with: a folder of images, or statistics that are made of one first."""
    found = told_plainly(LAYOUT.statistics, wildcards.benchmark, wildcards.metric)
    return str(found or path_of("reference", wildcards.benchmark))


def distance_inputs(wildcards):
    """Samples, the reference if it is made here, and the network if it is fetched or local."""
    inputs = {"run": str(RESULTS / f"samples/{wildcards.benchmark}/{wildcards.run}/run.json")}
    if CONFIG.benchmarks[wildcards.benchmark].reference == MICRO_REFERENCE:
        inputs["reference"] = f"{path_of('reference', wildcards.benchmark)}/meta_data.json"
    if told_plainly(LAYOUT.statistics, wildcards.benchmark, wildcards.metric):
        inputs["statistics"] = reference_of_score(wildcards)
    if made := fetched(metric_of(wildcards)):
        inputs["fetched"] = made
    extractor = getattr(metric_of(wildcards), "extractor", "")
    if extractor.startswith("mobilenetv2:"):
        inputs["network"] = str(FEATURE_NETWORK / "manifest.json")
    elif extractor and not asset_path(extractor, CONFIG.assets) and Path(extractor).exists():
        inputs["network"] = ancient(extractor)
    return inputs


def newborn_results():
    """A file as old as results/, newer than any report that came with a clone.

    Snakemake sees a report, no sign that its inputs changed, and takes it for up to date even when
    no result exists. Reports therefore depend on this file too.
    """
    marker = RESULTS / ".since"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{time.time_ns()}\n")
    return str(marker)


# Other reports that the web page shows as they are if they are there; their own targets make them.
SHOWN_AS_THEY_ARE = (
    "table*.md",
    "ablation_*.md",
    "ablation_*.csv",
    "ablation_*.png",
    "figures/*.png",
)


def followed_inputs(wildcards):
    """The databases of the methods whose patches the page follows."""
    wanted = {}
    for name, method in CONFIG.methods_in().items():
        parts = RETRIEVES.get(getattr(method.augment, "kind", None), ())
        if "index" in parts:
            wanted |= {last_file_of(part, name): None for part in parts}
    return list(wanted)


def found_reports(wildcards):
    """Names and digests of the reports that are there and that no input names."""
    found = {path for pattern in SHOWN_AS_THEY_ARE for path in Path("reports").glob(pattern)}
    return [[str(path), sha256_file(path)] for path in sorted(found) if path.stem not in TABLES]
