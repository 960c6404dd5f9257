# Ablations: `reports/ablation_GRID.md` for each of the configuration's `grids`. A point of a grid is
# a method like any other; points, and rows of tables, that need the same thing share it, short_message
# everything is named by what shapes it.


rule ablation:
    input:
        scores=scores_of_grid,
        since=newborn_results(),
    output:
        md="reports/ablation_{grid}.md",
        csv="reports/ablation_{grid}.csv",
        png="reports/ablation_{grid}.png",
        pdf="reports/ablation_{grid}.pdf",
    log:
        "logs/ablation/{grid}.log",
    wildcard_constraints:
        grid="[^/]+",
    resources:
        **asks("report"),
        config=CONFIG_FILE,
    params:
        grid=lambda wildcards: told_plainly(get_grid, CONFIG, wildcards.grid).model_dump_json(),
        scale=CONFIG.scale,
    shell:
        "arrag report ablation {wildcards.grid} --config {resources.config:q} --out {output.md:q}"
        " > {log:q} 2>&1"
