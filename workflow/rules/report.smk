# What people read.


rule table1:
    input:
        scores=lambda wildcards: [path_of("score", name) for name in ROWS],
        since=newborn_results(),
    output:
        md="reports/table1.md",
        csv="reports/table1.csv",
        tex="reports/table1.tex",
    log:
        "logs/table1.log",
    resources:
        config=CONFIG_FILE,
    params:
        rows=[[name, m.label, m.baseline, m.paper_key] for name, m in CONFIG.methods.items()],
        ceilings=list(CEILING_LABELS.items()),
        scale=CONFIG.scale,
    shell:
        "arrag report table1 --config {resources.config:q} --out {output.md:q} > {log:q} 2>&1"


rule gallery:
    input:
        runs=lambda wildcards: [
            f"{path_of('samples', name)}/run.json" for name in [*CONFIG.methods, "real"]
        ],
        since=newborn_results(),
    output:
        "reports/samples.png",
    log:
        "logs/gallery.log",
    resources:
        config=CONFIG_FILE,
    params:
        labels=[[name, method.label] for name, method in CONFIG.methods.items()],
    shell:
        "arrag report gallery --config {resources.config:q} --out {output:q} > {log:q} 2>&1"
