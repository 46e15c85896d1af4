"""How JupyterLab saves the notebooks of this checkout."""

import asyncio
import shlex
import shutil
import subprocess

import nbformat
import pytest
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from traitlets.config import Config

from utkcmp.report.lab import strip
from utkcmp.run import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("folder", ["notebooks", "outputs"])
def test_a_notebook_is_saved_as_git_has_it_and_a_result_as_it_is(folder, tmp_path):
    (tmp_path / folder).mkdir()
    config = Config({"FileContentsManager": {"pre_save_hook": "utkcmp.report.lab.strip"}})
    manager = AsyncLargeFileManager(root_dir=str(tmp_path), config=config)
    for source in NOTEBOOKS:
        copy = tmp_path / folder / source.name
        shutil.copyfile(source, copy)
        ran = nbformat.read(copy, 4)
        ran.metadata.widgets = {"state": {}}
        ran.metadata.language_info.version = "3.14"
        for cell in ran.cells:
            cell.metadata["execution"] = {"iopub.status.busy": "now"}
            if cell.cell_type == "code":
                cell.execution_count = 3
                cell.outputs = [nbformat.v4.new_output("stream", text="of this machine")]
        model = {"type": "notebook", "format": "json", "content": ran}
        asyncio.run(manager.save(model, f"{folder}/{source.name}"))
        assert (copy.read_bytes() == source.read_bytes()) == (folder == "notebooks")


def test_make_lab_shows_the_project_and_saves_so():
    say = ["make", "-n", "--no-print-directory", "lab", "READY="]
    said = subprocess.run(say, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    _, lab, *options = shlex.split(said.replace("\\\n", " "))
    assert lab == "lab"
    app = ServerApp()
    app.parse_command_line([one for one in options if "LabApp" not in one])
    assert app.config.ServerApp.root_dir == "."
    manager = AsyncLargeFileManager(root_dir=str(PROJECT), config=app.config)
    assert manager.pre_save_hook is strip
