"""A notebook widget that compares two uploaded photos."""

import base64
import html
import io

import ipywidgets
import matplotlib.pyplot as plt

from utkcmp.compare.answers import compare, load
from utkcmp.compare.figures import comparison_figure
from utkcmp.compare.predictor import Predictor

DRAWN = "Trained on drawn faces, this model says nothing about people."


def answer_html(left: io.BytesIO, right: io.BytesIO, predictor: Predictor) -> str:
    """The answer to two uploaded files as HTML: the figure, or the error message."""
    try:
        figure = comparison_figure(compare(left, right, predictor))
    except Exception as error:  # the answer to the photos before would stay
        return f"<p>{html.escape(str(error))}</p>"
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    note = f"<p>{DRAWN}</p>" if predictor.calibration.drawn else ""
    return f'<img alt="the answer" src="data:image/png;base64,{data}">{note}'


def upload_widget(predictor: Predictor | None = None) -> ipywidgets.VBox:
    """Two upload buttons; once both hold a photo, the answer appears below them.

    predictor: None takes ``find_model``'s. The photos stay in the kernel's memory: they are neither
    stored nor sent anywhere.
    """
    predictor = load(predictor)
    accept = "image/*,.heic,.heif,.avif,.tif,.tiff,.mpo"
    buttons = [
        ipywidgets.FileUpload(accept=accept, description=f"{side} photo", multiple=False)
        for side in ("left", "right")
    ]
    answer = ipywidgets.HTML("Upload two photos.")

    def react(_):
        if all(button.value for button in buttons):
            answer.value = "Comparing …"
            files = [io.BytesIO(button.value[0]["content"]) for button in buttons]
            for file, button in zip(files, buttons, strict=True):
                file.name = f"the {button.description} ({button.value[0]['name']})"
            answer.value = answer_html(*files, predictor)

    for button in buttons:
        button.observe(react, "value")
    return ipywidgets.VBox([ipywidgets.HBox(buttons), answer])
