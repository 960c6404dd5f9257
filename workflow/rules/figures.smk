# Figures 4 to 7 as PNG, PDF and CSV, and the folder that shows them: `reports/figures`.
FIGURE = {number: f"results/figures/figure{number}.png" for number in (4, 5, 6, 7)}


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


# Samples of the same prompts.
rule figure4:
    input:
        unpack(inputs_of(FIGURE[4])),
        since=SINCE,
    output:
        png=FIGURE[4],
        pdf="results/figures/figure4.pdf",
        csv="results/figures/figure4.csv",
    log:
        "logs/figure4.log",
    resources:
        config=CONFIG_FILE,
    params:
        shown=argument(FIGURE[4], "shown"),
        labels=argument(FIGURE[4], "labels"),
    shell:
        "arrag report figure 4 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


# Copying. It draws by itself: what is measured are codes, of which samples hold only the pixels.
rule figure5:
    input:
        unpack(inputs_of(FIGURE[5])),
        since=SINCE,
    output:
        png=FIGURE[5],
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
        shown=argument(FIGURE[5], "shown"),
        runs=argument(FIGURE[5], "runs"),
        labels=argument(FIGURE[5], "labels"),
    shell:
        "arrag report figure 5 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


# Distances of retrieved patches to the true ones, of held-out images.
rule figure6:
    input:
        unpack(inputs_of(FIGURE[6])),
        since=SINCE,
    output:
        png=FIGURE[6],
        pdf="results/figures/figure6.pdf",
        csv="results/figures/figure6.csv",
    log:
        "logs/figure6.log",
    threads: THREADS
    resources:
        gpu=GPUS,
        config=CONFIG_FILE,
    params:
        shown=argument(FIGURE[6], "shown"),
    shell:
        "arrag report figure 6 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"


# Grids of two settings as maps.
rule figure7:
    input:
        unpack(inputs_of(FIGURE[7])),
    output:
        png=FIGURE[7],
        pdf="results/figures/figure7.pdf",
        csv="results/figures/figure7.csv",
    log:
        "logs/figure7.log",
    resources:
        config=CONFIG_FILE,
    params:
        labels=argument(FIGURE[7], "labels"),
    shell:
        "arrag report figure 7 --config {resources.config:q} --out {output.png:q} > {log:q} 2>&1"
