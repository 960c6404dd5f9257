"""A grid whose points train: each its own adapter, drawn with and scored, by one target."""

import pandas as pd
import pytest
import yaml
from small_project import SmallProject


@pytest.mark.slow
def test_points_that_train_share_their_pairs_and_their_retrieval(tmp_path, root, assets):
    project = SmallProject(tmp_path / "project", root, assets, ("faid",))
    config = project.path / "config/micro.yaml"
    document = yaml.safe_load(config.read_text())
    values = {"training.faid.modules": [1, 2]}
    document["grids"] = {"modules": {"method": "faid", "values": values}}
    config.write_text(yaml.safe_dump(document))
    project.start(target="reports/ablation_modules.md").finish()
    table = pd.read_csv(project.path / "reports/ablation_modules.csv")
    assert {"modules 1", "modules 2"} <= set(table["point"])
    for part, count in (("pairs", 1), ("neighbours", 1), ("adapters", 2)):
        folders = [p for p in (project.path / "results" / part).iterdir() if p.is_dir()]
        assert len([p for p in folders if not p.name.endswith(".work")]) == count, part
