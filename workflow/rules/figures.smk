# Figures 4 to 7 as PNG, PDF and CSV, and the folder that shows them: `reports/figures`.
FIGURE = "results/figures/figure{number}.png"
FIGURE5 = "results/figures/figure5.png"


rule figures:
    input:
        unpack(inputs_of("reports/figures")),
        since=SINCE,
    output:
        directory("reports/figures"),
    log:
        "logs/figures.log",
    resources:
        config=CONFIG_FILE,
    params:
        scale=CONFIG.scale,
        drawn="results/figures",
    shell:
        "arrag report figures --config {resources.config:q} --drawn {params.drawn:q}"
        " --out {output:q} > {log:q} 2>&1"


# 4: samples of the same prompts. 6: distances of retrieved patches to the true ones, of held-out
# images. 7: grids of two settings as maps.
rule figure:
    input:
        unpack(inputs_of(FIGURE)),
        since=SINCE,
    output:
        png=FIGURE,
        pdf="results/figures/figure{number}.pdf",
        csv="results/figures/figure{number}.csv",
    log:
        "logs/figure{number}.log",
    wildcard_constraints:
        number="[467]",
    threads: THREADS
    resources:
        gpu=lambda wildcards: GPUS if wildcards.number == "6" else 0,
        config=CONFIG_FILE,
    params:
        about=lambda wildcards: planned(FIGURE, wildcards).arguments,
    shell:
        "arrag report figure {wildcards.number} --config {resources.config:q}"
        " --out {output.png:q} > {log:q} 2>&1"


# Copying. It draws by itself: what is measured are codes, of which samples hold only the pixels.
rule figure5:
    input:
        unpack(inputs_of(FIGURE5)),
        since=SINCE,
    output:
        png=FIGURE5,
        pdf="results/figures/figure5.pdf",
        csv="results/figures/figure5.csv",
        images_png="results/figures/figure5-images.png",
        images_pdf="results/figures/figure5-images.pdf",
    log:
        "logs/figure5.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
    params:
        shown=argument(FIGURE5, "shown"),
        runs=argument(FIGURE5, "runs"),
        labels=argument(FIGURE5, "labels"),
    shell:
        "arrag report figure 5 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"
