"""An ensemble of two trained networks."""

import pandas as pd

from utkcmp.evaluation.registry import ENSEMBLE, FOLDERS, MEMBERS, model_folders
from utkcmp.models.networks import PairEnsemble, build_model
from utkcmp.models.storage import load_model, read_config, read_history, save_model
from utkcmp.run import Run


def make_ensemble(run: Run) -> PairEnsemble | None:
    """Combine the ``MEMBERS`` in ``models/ensemble``, without training; None if one of them is
    missing or has not been evaluated.

    Its history is the concatenation of theirs.
    """
    known = model_folders(run)
    if not set(MEMBERS) <= set(known) & set(run.read_results().model):
        return None
    folders = {name: run.model(known[name]) for name in MEMBERS}
    members = [load_model(folder) for folder in folders.values()]
    ensemble = build_model("PairEnsemble", members=[one.config for one in members])
    for own, trained in zip(ensemble.members, members, strict=True):
        own.load_state_dict(trained.state_dict())
    save_model(
        ensemble.eval(),
        run.model(FOLDERS[ENSEMBLE]),
        settings={name: read_config(folder)["settings"] for name, folder in folders.items()},
        history=pd.concat([read_history(folder) for folder in folders.values()]),
    )
    return ensemble
