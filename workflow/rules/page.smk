# One web page of all there is: tables, figures, samples, and where their patches came from.
from arrag.files import sha256_file

# Other reports that it shows as they are if they are there; their own targets make them.
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


rule page:
    input:
        tables=[
            f"reports/{table}.md"
            for table, (kind, _) in TABLES.items()
            if CONFIG.benchmark_of_kind(kind)
        ],
        runs=lambda wildcards: [f"{path_of('samples', name)}/run.json" for name in shown()],
        databases=followed_inputs,
        since=newborn_results(),
    output:
        "reports/index.html",
    log:
        "logs/page.log",
    threads: CONFIG.resources.threads
    resources:
        config=CONFIG_FILE,
    params:
        found=found_reports,
        labels=[[name, method.label] for name, method in CONFIG.methods_in().items()],
    shell:
        "arrag report page --config {resources.config:q} --out {output:q} > {log:q} 2>&1"
