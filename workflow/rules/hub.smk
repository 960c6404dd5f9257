# What is not in the repository and no stage makes: weights and data of a hub, files by address, and
# what is converted from them. They are in data/; their names, or the block `prepare`, say what they
# are, so that everything is planned before they are there.


rule fetch_hub:
    output:
        directory(str(HUB / "{reference}")),
    log:
        "logs/fetch_hub/{reference}.log",
    wildcard_constraints:
        reference="[^/]+",
    priority: 30  # a gated or missing repository is found before hours are spent
    localrule: True
    resources:
        download=1,
    params:
        reference=lambda wildcards: f"hub:{reference_of(HUB / wildcards.reference)}",
    shell:
        "arrag download hub {params.reference:q} > {log:q} 2>&1"


rule prepare_file:
    input:
        prepare_inputs,
    output:
        "{path}",
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=one_of(FILES),
    localrule: True
    resources:
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.assets[wildcards.path].model_dump_json(),
    shell:
        "arrag prepare {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"


rule prepare_folder:
    input:
        prepare_inputs,
    output:
        directory("{path}"),
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=one_of(FOLDERS),
    resources:
        **asks("convert"),
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.assets[wildcards.path].model_dump_json(),
    shell:
        "arrag prepare {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"
