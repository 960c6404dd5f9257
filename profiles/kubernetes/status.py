#!/usr/bin/env python3
"""Say of a Kubernetes job what Snakemake wants to know: running, success or failed."""

import json
import subprocess
import sys


def state(job: dict) -> str:
    """Of a job as ``kubectl get job --output=json`` has it."""
    found = {
        c["type"] for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"
    }
    if "Complete" in found:
        return "success"
    return "failed" if "Failed" in found else "running"


if __name__ == "__main__":
    command = ["kubectl", "get", "job", sys.argv[-1], "--output=json", "--ignore-not-found"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode != 0:  # the server did not answer: ask again, do not give the job up
        print(said.stderr, file=sys.stderr)
        print("running")
    else:
        print(state(json.loads(said.stdout)) if said.stdout.strip() else "failed")
