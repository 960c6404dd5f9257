# What people read: tables, ablations, the contact sheet, the web page, the crate.
TABLE = "reports/{table}.md"
TIMING = "results/timing/{timing}.json"
ABLATION = "reports/ablation_{grid}.md"
GALLERY = "reports/samples.png"
PAGE = "reports/index.html"
CRATE = "results/crate"


# Tables 1, 2 and 3, each from the scores of its own benchmark.
rule table:
    input:
        unpack(inputs_of(TABLE)),
        since=SINCE,
    output:
        md=TABLE,
        csv=report("reports/{table}.csv", caption="../report/table.rst", category="Tables"),
        tex="reports/{table}.tex",
    log:
        "logs/{table}.log",
    wildcard_constraints:
        table="|".join(TABLES),
    resources:
        config=CONFIG_FILE,
    params:
        rows=argument(TABLE, "rows"),
        not_run=argument(TABLE, "not_run"),
        scale=CONFIG.scale,
        number=lambda wildcards: wildcards.table.removeprefix("table"),
    shell:
        "arrag report table {params.number} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"


# Seconds an image of every row, in one job that has the machine for itself: rows that are timed one
# after the other in one process share its drift, and nothing else of this workflow runs meanwhile.
# Its name holds what is timed; what a machine needs for it is no part of a result.
rule time_rows:
    input:
        unpack(inputs_of(TIMING)),
    output:
        TIMING,
    log:
        "logs/time_rows/{timing}.log",
    threads: workflow.cores
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
    shell:
        "arrag benchmark --config {resources.config:q} --out {output:q} > {log:q} 2>&1"


rule table4:
    input:
        unpack(inputs_of("reports/table4.md")),
        since=SINCE,
    output:
        md="reports/table4.md",
        csv="reports/table4.csv",
        tex="reports/table4.tex",
    log:
        "logs/table4.log",
    resources:
        config=CONFIG_FILE,
    params:
        rows=argument("reports/table4.md", "rows"),
        not_run=argument("reports/table4.md", "not_run"),
    shell:
        "arrag report table 4 --timing {input.timing:q} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"


# A point of a grid is a method like any other; points, and rows of tables, that need the same thing
# share it, because everything is named by what shapes it.
rule ablation:
    input:
        unpack(inputs_of(ABLATION)),
        since=SINCE,
    output:
        md=ABLATION,
        csv="reports/ablation_{grid}.csv",
        png="reports/ablation_{grid}.png",
        pdf="reports/ablation_{grid}.pdf",
    log:
        "logs/ablation/{grid}.log",
    wildcard_constraints:
        grid="[^/]+",
    resources:
        config=CONFIG_FILE,
    params:
        grid=argument(ABLATION, "grid"),
        scale=CONFIG.scale,
    shell:
        "arrag report ablation {wildcards.grid} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"


rule gallery:
    input:
        unpack(inputs_of(GALLERY)),
        since=SINCE,
    output:
        report(GALLERY, caption="../report/gallery.rst", category="Samples"),
    log:
        "logs/gallery.log",
    resources:
        config=CONFIG_FILE,
    params:
        labels=argument(GALLERY, "labels"),
    shell:
        "arrag report gallery --config {resources.config:q} --out {output:q} > {log:q} 2>&1"


# Tables, figures, samples, and where their patches came from.
rule page:
    input:
        unpack(inputs_of(PAGE)),
        since=SINCE,
    output:
        PAGE,
    log:
        "logs/page.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
    params:
        found=found_reports,
        labels=argument(PAGE, "labels"),
    shell:
        "arrag report page --config {resources.config:q} --out {output:q} > {log:q} 2>&1"


# A finished run as an RO-Crate: what others need to know it, to check it and to run it again.
rule crate:
    input:
        unpack(inputs_of(CRATE)),
    output:
        directory(CRATE),
    log:
        "logs/crate.log",
    resources:
        config=CONFIG_FILE,
    shell:
        "arrag report crate {input.tables:q} --config {resources.config:q} --out {output:q}"
        " > {log:q} 2>&1"
