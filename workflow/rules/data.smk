# Pictures the micro world is made of: pinned files of a package index.
from arrag.data.micro.assets import WHEELS


rule fetch_assets:
    output:
        manifest=str(MICRO_ASSETS / "manifest.json"),
        assets=str(MICRO_ASSETS / "assets.npz"),
    log:
        "logs/fetch_assets.log",
    priority: 10  # the longest chain starts here
    localrule: True
    params:
        out=folder_of_output,
        files=sorted(wheel.sha256 for wheel in WHEELS.values()),
    shell:
        "arrag fetch --out {params.out:q} > {log} 2>&1"
