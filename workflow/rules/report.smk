# What people read.


# Tables 1, 2 and 3, each from the scores of its own benchmark.
rule table:
    input:
        scores=scores_of_table,
        since=newborn_results(),
    output:
        md="reports/{table}.md",
        csv=report("reports/{table}.csv", caption="../report/table.rst", category="Tables"),
        tex="reports/{table}.tex",
    log:
        "logs/{table}.log",
    wildcard_constraints:
        table="|".join(TABLES),
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        rows=lambda wildcards: [
            [name, m.label, m.baseline, m.paper_key]
            for name, m in CONFIG.methods_in(benchmark_of_table(wildcards)).items()
        ],
        not_run=sorted(CONFIG.skipped.items()),
        scale=CONFIG.scale,
    shell:
        "arrag report {wildcards.table} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"


rule gallery:
    input:
        runs=lambda wildcards: [f"{path_of('samples', name)}/run.json" for name in shown()],
        since=newborn_results(),
    output:
        report("reports/samples.png", caption="../report/gallery.rst", category="Samples"),
    log:
        "logs/gallery.log",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        labels=[[name, method.label] for name, method in CONFIG.methods_in().items()],
    shell:
        "arrag report gallery --config {resources.config:q} --out {output:q} > {log:q} 2>&1"
