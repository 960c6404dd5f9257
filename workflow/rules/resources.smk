# What jobs ask of a scheduler; arrag/pipeline/scheduling.py has the numbers. A run on one machine without a
# limit on these resources is not changed by them, and no result depends on them.
from arrag.pipeline.scheduling import STAGES, drawing_seconds, encoding_seconds, memory, minutes


def asks(stage, seconds=None):
    """Entries of `resources` for a rule of a stage.

    seconds: of a job on a GPU, given its wildcards, where they are worth an estimate: at paper scale.
    """
    ask = STAGES[CONFIG.scale][stage]

    def runtime(wildcards, attempt):
        paper = seconds and CONFIG.scale == "paper"
        estimated = told_plainly(seconds, wildcards) if paper else 0.0
        return minutes(ask, estimated, attempt)

    return {
        "mem_mb": lambda wildcards, attempt: memory(ask, attempt),
        "runtime": runtime,
        "gpu": ask.gpus,
    }


def seconds_to_draw(wildcards):
    """Of all images of a run, or of what parts of it left: nothing."""
    if sample_parts(wildcards):
        return 0.0
    return drawing_seconds(CONFIG, method_of(wildcards), wildcards.benchmark)


def seconds_to_draw_part(wildcards):
    """Of the images of one of a run's parts."""
    whole = drawing_seconds(CONFIG, method_of(wildcards), wildcards.benchmark)
    return whole / int(wildcards.parts)


def seconds_to_encode(wildcards):
    """Of all images of a database."""
    method = method_for("codes", f"{wildcards.tokenizer}/{wildcards.corpus}")
    return encoding_seconds(CONFIG, method)


def seconds_to_index_images(wildcards):
    """Of all images of a database, by another encoder of about the same size."""
    return encoding_seconds(CONFIG, method_for("image_index", wildcards.images))


def seconds_to_encode_part(wildcards):
    """Of the images of one job, of a database of several corpora."""
    method = part_store(wildcards)[1]
    return encoding_seconds(CONFIG, method, CONFIG.resolved(method).database.images_per_job)
