#!/usr/bin/env python3
"""Submit a job script of Snakemake's as a Kubernetes job; prints its name.

ARRAG_IMAGE: an image that has this environment under the same path; ARRAG_CLAIM: a volume claim
with the project's folder, mounted under the same path as here (ARRAG_MOUNT, or the project's folder
itself). The namespace is kubectl's own.
"""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

from snakemake.utils import read_job_properties

GPU = "nvidia.com/gpu"
KEPT_SECONDS = 86_400  # how long Kubernetes keeps a finished job to be looked at


def manifest(script: Path, properties: dict, image: str, claim: str, mount: str) -> dict:
    """A job of one pod that runs ``script`` once: what it may take is what it asks for.

    A pod that takes more memory or time is killed, and Snakemake tries again with more.
    """
    asked = properties["resources"]
    amounts = {"cpu": str(properties["threads"]), "memory": f"{asked['mem_mb']}M"}
    if asked.get("gpu"):
        amounts[GPU] = str(asked["gpu"])
    rule = re.sub(r"[^a-z0-9]+", "-", (properties.get("rule") or properties["groupid"]).lower())
    container = {
        "name": "job",
        "image": image,
        "command": ["/bin/sh", str(script)],
        "workingDir": os.getcwd(),
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": "project", "mountPath": mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"arrag-{rule.strip('-')[:40]}-{uuid.uuid4().hex[:8]}",
            "labels": {"app": "arrag"},
        },
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again, not Kubernetes
            "activeDeadlineSeconds": 60 * asked["runtime"],
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": {"app": "arrag"}}, "spec": pod},
        },
    }


def main() -> None:
    """Submit the script that is the last argument."""
    missing = [name for name in ("ARRAG_IMAGE", "ARRAG_CLAIM") if not os.environ.get(name)]
    if missing:
        sys.exit(f"{' and '.join(missing)}: not set; docs/how-to/cluster.md says what they name")
    script = Path(sys.argv[-1]).absolute()
    job = manifest(
        script,
        read_job_properties(str(script)),
        os.environ["ARRAG_IMAGE"],
        os.environ["ARRAG_CLAIM"],
        os.environ.get("ARRAG_MOUNT", os.getcwd()),
    )
    command = ["kubectl", "create", "-f", "-"]
    subprocess.run(command, input=json.dumps(job), text=True, check=True, stdout=sys.stderr)
    print(job["metadata"]["name"])


if __name__ == "__main__":
    main()
