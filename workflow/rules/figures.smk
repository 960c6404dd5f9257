# Figures 4 to 7 as PNG, PDF and CSV, and the folder that shows them: `reports/figures`.
DRAWN = RESULTS / "figures"


rule figures:
    input:
        lambda wildcards: [
            str(DRAWN / f"{name}.png") for name in FIGURES if not lacking_for(CONFIG, name)
        ],
        since=newborn_results(),
    output:
        directory("reports/figures"),
    log:
        "logs/figures.log",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        scale=CONFIG.scale,
        drawn=str(DRAWN),
    shell:
        "arrag report figures --config {resources.config:q} --drawn {params.drawn:q}"
        " --out {output:q} > {log:q} 2>&1"


rule figure4:
    input:
        runs=lambda wildcards: [
            f"{path_of('samples', name)}/run.json"
            for name in shown_in("figure4", figure4_methods)
        ],
        since=newborn_results(),
    output:
        png=str(DRAWN / "figure4.png"),
        pdf=str(DRAWN / "figure4.pdf"),
        csv=str(DRAWN / "figure4.csv"),
    log:
        "logs/figure4.log",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        shown=[CONFIG.figures.prompts, CONFIG.figures.images],
        labels=[CONFIG.method(name).label for name in figure4_methods(CONFIG)],
    shell:
        "arrag report figure4 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


# It draws by itself: what is measured are codes, of which samples hold only the pixels.
rule figure5:
    input:
        lambda wildcards: needed_by(shown_in("figure5", figure5_methods)),
        prompts=lambda wildcards: made_path(CONFIG.benchmark().prompts),
        since=newborn_results(),
    output:
        png=str(DRAWN / "figure5.png"),
        pdf=str(DRAWN / "figure5.pdf"),
        csv=str(DRAWN / "figure5.csv"),
        images_png=str(DRAWN / "figure5-images.png"),
        images_pdf=str(DRAWN / "figure5-images.pdf"),
    log:
        "logs/figure5.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("draw"),
        config=CONFIG_FILE,
    params:
        shown=CONFIG.figures.copying_prompts,
        runs=lambda wildcards: [told_plainly(LAYOUT.run, name) for name in figure5_methods(CONFIG)],
        labels=[CONFIG.method(name).label for name in figure5_methods(CONFIG)],
    shell:
        "arrag report figure5 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


rule figure6:
    input:
        held_out_inputs,
        since=newborn_results(),
    output:
        png=str(DRAWN / "figure6.png"),
        pdf=str(DRAWN / "figure6.pdf"),
        csv=str(DRAWN / "figure6.csv"),
    log:
        "logs/figure6.log",
    threads: CONFIG.resources.threads
    resources:
        **asks("search"),
        config=CONFIG_FILE,
    params:
        shown=[CONFIG.figures.held_out, CONFIG.figures.k],
    shell:
        "arrag report figure6 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


rule figure7:
    input:
        lambda wildcards: [f"reports/ablation_{name}.csv" for name in shown_in("figure7", figure7_grids)],
    output:
        png=str(DRAWN / "figure7.png"),
        pdf=str(DRAWN / "figure7.pdf"),
        csv=str(DRAWN / "figure7.csv"),
    log:
        "logs/figure7.log",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        labels=[CONFIG.method(CONFIG.grids[name].method).label for name in figure7_grids(CONFIG)],
    shell:
        "arrag report figure7 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"
