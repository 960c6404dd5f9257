"""A grid whose points train: which stages its points share."""

import yaml

from arrag.config.root import load_config
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import grid_points


def test_points_that_train_share_their_pairs_and_their_retrieval(tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    document["methods"] = {"faid": {"label": "FAiD", "augment": {"kind": "faid", "k": 3}}}
    values = {"training.faid.modules": [1, 2]}
    document |= {"figures": {}, "grids": {"modules": {"method": "faid", "values": values}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    config = load_config(tmp_path / "config.yaml")
    layout = Layout(config)
    plans = [layout.artifacts_for(point) for point, _, _ in grid_points(config, "modules")]
    for part, count in (("pairs", 1), ("neighbours", 1), ("trained_adapter", 2)):
        assert len({plan[part] for plan in plans}) == count, part
