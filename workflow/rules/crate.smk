# A finished run as an RO-Crate: what others need to know it, to check it and to run it again.
rule crate:
    input:
        tables=[f"reports/{table}.md" for table in tables_of(CONFIG)],
    output:
        directory(str(RESULTS / "crate")),
    log:
        "logs/crate.log",
    resources:
        config=CONFIG_FILE,
    shell:
        "arrag crate {input.tables:q} --config {resources.config:q} --out {output:q}"
        " > {log:q} 2>&1"
