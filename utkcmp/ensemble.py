"""Two trained networks that answer together."""

import pandas as pd

from utkcmp.comparison import FOLDERS
from utkcmp.modelfiles import load_model, read_config, read_history, save_model
from utkcmp.models import PairEnsemble, build_model
from utkcmp.run import Run

TOGETHER = ("SiameseResNet", "SiameseResNetAge")  # one learnt order, the other ages
ENSEMBLE = "ensemble"


def make_ensemble(run: Run) -> PairEnsemble | None:
    """Join the run's ``TOGETHER`` to one model in ``models/ensemble``; nothing is trained.

    Its history is that of its members, one after the other. None if one of them is missing.
    """
    folders = [run.model(FOLDERS[name]) for name in TOGETHER]
    if not all((folder / "config.json").exists() for folder in folders):
        return None
    configs = [read_config(folder) for folder in folders]
    members = [load_model(folder) for folder in folders]
    ensemble = build_model("PairEnsemble", members=[one.config for one in members])
    for own, trained in zip(ensemble.members, members, strict=True):
        own.load_state_dict(trained.state_dict())
    ensemble.image_size = configs[0]["image_size"]
    save_model(
        ensemble.eval(),
        run.model(FOLDERS[ENSEMBLE]),
        settings={name: one["settings"] for name, one in zip(TOGETHER, configs, strict=True)},
        image_size=ensemble.image_size,
        history=pd.concat([read_history(folder) for folder in folders]),
    )
    return ensemble
