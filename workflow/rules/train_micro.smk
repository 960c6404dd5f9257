# The micro checkpoints, from nothing. Only the target `train_micro` runs this; the shipped ones in
# checkpoints/ are what everything else uses, and nothing is copied there by itself.
# A killed training resumes from its work folder, which is therefore no output. About two and a half
# hours on 2 cores, more than half of it for the language model; logs and loss plots are in the work folders.
STEPS = {"decoder": 1000, "lm": 4400, "detector": 1200, "clip": 350, "retriever": 1600}
STEPS |= {"showo-decoder": 600, "showo-lm": 3000}


rule train_micro:
    input:
        "results/train/micro-janus/config.json",
        "results/train/micro-detector/config.json",
        "results/train/micro-clip/open_clip_config.json",
        "results/train/micro-retriever/open_clip_config.json",
    localrule: True


# The micro Show-o; a target of its own, because nothing else needs it and it takes hours.
rule train_showo:
    input:
        "results/train/micro-showo/config.json",
    localrule: True


# Of the micro Janus; `signs` of the micro Show-o.
rule train_codebook:
    input:
        assets="data/micro/assets.npz",
    output:
        "results/train/{codebook}.safetensors",
    log:
        "logs/train_codebook/{codebook}.log",
    wildcard_constraints:
        codebook="codebook|signs",
    threads: workflow.cores
    shell:
        "python workflow/scripts/micro/train.py {wildcards.codebook} --out {output:q} > {log:q} 2>&1"


# The tokenizer's decoder and the language model, which only share the codebook.
rule train_part:
    input:
        assets="data/micro/assets.npz",
        codebook="results/train/codebook.safetensors",
    output:
        "results/train/{part}.safetensors",
    log:
        "logs/train_part/{part}.log",
    wildcard_constraints:
        part="decoder|lm",
    threads: workflow.cores
    params:
        work="results/train/{part}.work",
        steps=lambda wildcards: STEPS[wildcards.part],
    shell:
        "python workflow/scripts/micro/train.py part {wildcards.part} --codes {input.codebook:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {output:q} > {log:q} 2>&1"


rule train_showo_part:
    input:
        assets="data/micro/assets.npz",
        signs="results/train/signs.safetensors",
    output:
        "results/train/{part}.safetensors",
    log:
        "logs/train_showo_part/{part}.log",
    wildcard_constraints:
        part="showo-decoder|showo-lm",
    threads: workflow.cores
    params:
        work="results/train/{part}.work",
        steps=lambda wildcards: STEPS[wildcards.part],
    shell:
        "python workflow/scripts/micro/train.py part {wildcards.part} --codes {input.signs:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {output:q} > {log:q} 2>&1"


rule assemble_janus:
    input:
        decoder="results/train/decoder.safetensors",
        lm="results/train/lm.safetensors",
    output:
        "results/train/micro-janus/config.json",
    log:
        "logs/assemble_janus.log",
    params:
        out=folder_of_output,
    shell:
        "python workflow/scripts/micro/train.py assemble janus --decoder {input.decoder:q} --lm {input.lm:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule assemble_showo:
    input:
        decoder="results/train/showo-decoder.safetensors",
        lm="results/train/showo-lm.safetensors",
    output:
        "results/train/micro-showo/config.json",
    log:
        "logs/assemble_showo.log",
    params:
        out=folder_of_output,
    shell:
        "python workflow/scripts/micro/train.py assemble showo --decoder {input.decoder:q} --lm {input.lm:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# The detector and the colour classifier; they also see what the tokenizer makes of images.
rule train_judge:
    input:
        assets="data/micro/assets.npz",
        tokenizer="results/train/micro-janus/config.json",
    output:
        "results/train/micro-{part}/{config}.json",
    log:
        "logs/train_judge/{part}-{config}.log",
    wildcard_constraints:
        part="detector|clip",
        config="config|open_clip_config",
    threads: workflow.cores
    params:
        tokenizer=lambda wildcards, input: Path(input.tokenizer).parent,
        work="results/train/{part}.work",
        steps=lambda wildcards: STEPS[wildcards.part],
        out=folder_of_output,
    shell:
        "python workflow/scripts/micro/train.py judge {wildcards.part} --tokenizer {params.tokenizer:q} --steps {params.steps}"
        " --work-dir {params.work:q} --out {params.out:q} > {log:q} 2>&1"


rule train_retriever:
    input:
        assets="data/micro/assets.npz",
    output:
        "results/train/micro-retriever/open_clip_config.json",
    log:
        "logs/train_retriever.log",
    threads: workflow.cores
    params:
        work="results/train/retriever.work",
        steps=STEPS["retriever"],
        out=folder_of_output,
    shell:
        "python workflow/scripts/micro/train.py retriever --steps {params.steps} --work-dir {params.work:q}"
        " --out {params.out:q} > {log:q} 2>&1"
