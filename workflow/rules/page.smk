# One web page of all there is: tables, figures, samples, and where their patches came from.
rule page:
    input:
        tables=[f"reports/{table}.md" for table in tables_of(CONFIG)],
        runs=lambda wildcards: [f"{path_of('samples', name)}/run.json" for name in shown()],
        databases=followed_inputs,
        since=newborn_results(),
    output:
        "reports/index.html",
    log:
        "logs/page.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("search"),
        config=CONFIG_FILE,
    params:
        found=found_reports,
        labels=[[name, method.label] for name, method in CONFIG.methods_in().items()],
    shell:
        "arrag report page --config {resources.config:q} --out {output:q} > {log:q} 2>&1"
