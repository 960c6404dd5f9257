# Verdicts of the judge, whose digest is in the score's name.


rule score_geneval:
    input:
        run=str(RESULTS / "samples/{run}/run.json"),
        prompts=ancient(str(CONFIG.benchmark.prompts)),
        detector=ancient(str(CONFIG.judge.detector)),
        color=ancient(str(CONFIG.judge.color)),
    output:
        score=str(RESULTS / "scores/{judge}/{run}.json"),
        records=str(RESULTS / "scores/{judge}/{run}.jsonl"),
    log:
        "logs/score_geneval/{judge}-{run}.log",
    threads: CONFIG.resources.threads
    params:
        images=lambda wildcards, input: Path(input.run).parent,
    shell:
        "arrag score geneval {params.images:q} --prompts {input.prompts:q}"
        " --detector {input.detector:q} --color {input.color:q}"
        " --out {output.score:q} --records {output.records:q} > {log:q} 2>&1"
