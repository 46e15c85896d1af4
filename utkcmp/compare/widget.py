"""Two upload buttons in a notebook, for the reader's own photos."""

import base64
import html
import io

import ipywidgets
import matplotlib.pyplot as plt

from utkcmp.compare.answers import compare
from utkcmp.compare.figures import comparison_figure
from utkcmp.compare.predictor import Predictor


def answer_html(left: bytes, right: bytes, predictor: Predictor) -> str:
    """The answer to two uploaded files as HTML: the figure, or the sentence why there is none."""
    try:
        figure = comparison_figure(compare(left, right, predictor))
    except ValueError as error:
        return f"<p>{html.escape(str(error))}</p>"
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="the answer" src="data:image/png;base64,{data}">'


def upload_widget(predictor: Predictor) -> ipywidgets.VBox:
    """Two upload buttons; as soon as both hold a photo, the answer appears below them.

    The photos stay in the kernel's memory: they are neither stored nor sent anywhere.
    """
    buttons = [
        ipywidgets.FileUpload(accept="image/*", description=f"{side} photo", multiple=False)
        for side in ("left", "right")
    ]
    answer = ipywidgets.HTML("Upload two photos.")

    def react(_):
        if all(button.value for button in buttons):
            files = [bytes(button.value[0]["content"]) for button in buttons]
            answer.value = answer_html(*files, predictor)

    for button in buttons:
        button.observe(react, "value")
    return ipywidgets.VBox([ipywidgets.HBox(buttons), answer])
