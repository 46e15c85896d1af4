"""What JupyterLab calls before it saves (``make lab``): notebooks are kept as git has them."""

from typing import Any

LANGUAGE = {"name": "python"}
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def strip(model: dict[str, Any], path: str = "", **_) -> None:
    """Take outputs, counters and the traces of widgets out of a notebook of ``notebooks/``.

    model: what is saved, of Jupyter Server's contents manager; path: where, below its root.
    """
    if model["type"] != "notebook" or not path.lstrip("/").startswith("notebooks/"):
        return
    notebook = model["content"]
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    for cell in notebook["cells"]:
        cell["metadata"] = {key: cell["metadata"][key] for key in cell["metadata"] if key == "tags"}
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
