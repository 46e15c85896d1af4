"""JupyterLab's pre-save hook (``make lab``), which keeps notebooks as git stores them."""

from typing import Any

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def strip(model: dict[str, Any], path: str = "", **_) -> None:
    """Strip outputs, execution counts and widget state from a notebook in ``notebooks/``.

    model, path: the model that Jupyter Server's contents manager saves, and its path.
    """
    if model["type"] != "notebook" or not path.lstrip("/").startswith("notebooks/"):
        return
    notebook = model["content"]
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook["cells"]:
        cell["metadata"] = {key: cell["metadata"][key] for key in cell["metadata"] if key == "tags"}
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
