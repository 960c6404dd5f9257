# Seconds an image of every row, in one job that has the machine for itself: rows that are timed one
# after the other in one process share its drift, and nothing else of this workflow runs meanwhile.
# Its name holds what is timed; what a machine needs for it is no part of a result.


rule time_rows:
    input:
        timing_inputs,
    output:
        str(RESULTS / "timing/{timing}.json"),
    log:
        "logs/time_rows/{timing}.log",
    threads: workflow.cores
    resources:
        **asks("draw"),
        config=CONFIG_FILE,
    shell:
        "arrag time --config {resources.config:q} --out {output:q} > {log:q} 2>&1"


rule table4:
    input:
        timing=lambda wildcards: str(told_plainly(LAYOUT.timing, timed_methods(CONFIG))),
        since=newborn_results(),
    output:
        md="reports/table4.md",
        csv="reports/table4.csv",
        tex="reports/table4.tex",
    log:
        "logs/table4.log",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        rows=[
            [n, CONFIG.method(n).label, CONFIG.method(n).paper_key] for n in timed_methods(CONFIG)
        ],
        not_run=sorted(CONFIG.skipped.items()),
    shell:
        "arrag report table4 {input.timing:q} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"
