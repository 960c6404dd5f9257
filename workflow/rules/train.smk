# The micro checkpoints, from nothing. Only the target `train_micro` runs this; the shipped ones in
# checkpoints/ are what everything else uses, and nothing is copied there by itself.
# A killed training goes on from its work folder, which is therefore no output. About two and a half
# hours on 2 cores, more than half of it for the language model; logs and loss plots are in the work folders.
TRAIN = RESULTS / "train"
STEPS = {"decoder": 1000, "lm": 4400, "detector": 1200, "clip": 350, "retriever": 1600}
STEPS |= {"showo-decoder": 600, "showo-lm": 3000}


rule train_micro:
    input:
        str(TRAIN / "micro-janus/config.json"),
        str(TRAIN / "micro-detector/config.json"),
        str(TRAIN / "micro-clip/open_clip_config.json"),
        str(TRAIN / "micro-retriever/open_clip_config.json"),
    localrule: True


rule train_codebook:
    input:
        assets=rules.fetch_assets.output.assets,
    output:
        str(TRAIN / "codebook.safetensors"),
    log:
        "logs/train_codebook.log",
    threads: workflow.cores
    resources:
        **asks("train"),
    shell:
        "arrag micro train codebook --out {output:q} > {log:q} 2>&1"


# The tokenizer's decoder and the language model, which only share the codebook.
rule train_part:
    input:
        assets=rules.fetch_assets.output.assets,
        codebook=rules.train_codebook.output,
    output:
        str(TRAIN / "{part}.safetensors"),
    log:
        "logs/train_part/{part}.log",
    wildcard_constraints:
        part="decoder|lm",
    threads: workflow.cores
    resources:
        **asks("train"),
    params:
        work=str(TRAIN / "{part}.work"),
        steps=lambda wildcards: STEPS[wildcards.part],
    shell:
        "arrag micro train {wildcards.part} --codebook {input.codebook:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {output:q} > {log:q} 2>&1"


rule assemble_janus:
    input:
        decoder=str(TRAIN / "decoder.safetensors"),
        lm=str(TRAIN / "lm.safetensors"),
    output:
        str(TRAIN / "micro-janus/config.json"),
    log:
        "logs/assemble_janus.log",
    resources:
        **asks("report"),
    params:
        out=folder_of_output,
    shell:
        "arrag micro train janus --decoder {input.decoder:q} --lm {input.lm:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# The detector and the colour classifier; they also see what the tokenizer makes of images.
rule train_judge:
    input:
        assets=rules.fetch_assets.output.assets,
        tokenizer=rules.assemble_janus.output,
    output:
        str(TRAIN / "micro-{judge}/{config}.json"),
    log:
        "logs/train_judge/{judge}-{config}.log",
    wildcard_constraints:
        judge="detector|clip",
        config="config|open_clip_config",
    threads: workflow.cores
    resources:
        **asks("train"),
    params:
        tokenizer=lambda wildcards, input: Path(input.tokenizer[0]).parent,
        work=str(TRAIN / "{judge}.work"),
        steps=lambda wildcards: STEPS[wildcards.judge],
        out=folder_of_output,
    shell:
        "arrag micro train {wildcards.judge} --tokenizer {params.tokenizer:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {params.out:q} > {log:q} 2>&1"


rule train_retriever:
    input:
        assets=rules.fetch_assets.output.assets,
    output:
        str(TRAIN / "micro-retriever/open_clip_config.json"),
    log:
        "logs/train_retriever.log",
    threads: workflow.cores
    resources:
        **asks("train"),
    params:
        work=str(TRAIN / "retriever.work"),
        steps=STEPS["retriever"],
        out=folder_of_output,
    shell:
        "arrag micro train retriever --steps {params.steps} --work-dir {params.work:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# The micro Show-o; a target of its own, short_message nothing else needs it and it takes hours.
rule train_showo:
    input:
        str(TRAIN / "micro-showo/config.json"),
    localrule: True


rule train_signs:
    input:
        assets=rules.fetch_assets.output.assets,
    output:
        str(TRAIN / "signs.safetensors"),
    log:
        "logs/train_signs.log",
    threads: workflow.cores
    resources:
        **asks("train"),
    shell:
        "arrag micro train signs --out {output:q} > {log:q} 2>&1"


rule train_showo_part:
    input:
        assets=rules.fetch_assets.output.assets,
        signs=rules.train_signs.output,
    output:
        str(TRAIN / "showo-{part}.safetensors"),
    log:
        "logs/train_showo_part/{part}.log",
    wildcard_constraints:
        part="decoder|lm",
    threads: workflow.cores
    resources:
        **asks("train"),
    params:
        work=str(TRAIN / "showo-{part}.work"),
        steps=lambda wildcards: STEPS[f"showo-{wildcards.part}"],
    shell:
        "arrag micro train showo-{wildcards.part} --signs {input.signs:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {output:q} > {log:q} 2>&1"


rule assemble_showo:
    input:
        decoder=str(TRAIN / "showo-decoder.safetensors"),
        lm=str(TRAIN / "showo-lm.safetensors"),
    output:
        str(TRAIN / "micro-showo/config.json"),
    log:
        "logs/assemble_showo.log",
    resources:
        **asks("report"),
    params:
        out=folder_of_output,
    shell:
        "arrag micro train showo --decoder {input.decoder:q} --lm {input.lm:q}"
        " --out {params.out:q} > {log:q} 2>&1"
