"""Draw the training curve, and write the page that shows it."""

from pathlib import Path

from components.artifacts.trained_model import TrainedModel
from components.core.html_page import embedded, render
from components.core.pyplot import plt

BODY = """
<p>Best epoch {{ best_epoch }}: validation Dice <b>{{ '%.3f'|format(best_val_dice) }}</b> on the model grid;
<b>{{ '%.3f'|format(native_dice) }}</b> in the scans' own space at the threshold {{ '%.2f'|format(threshold) }}. These
patients chose the weights. The quality of the model is measured on the test patients: see evaluate.</p>
<img class="full" src="{{ picture }}" alt="training curve">
<h2>Settings</h2><table>{% for name, value in params.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
"""


def draw_curve(history: list[dict[str, float]], best_epoch: int, path: Path) -> None:
    """Draw loss, Dice and learning rate over the epochs, with the best epoch marked, as a PNG at `path`."""
    epochs = [row["epoch"] for row in history]
    figure, (loss, dice, rate) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for axis, what in ((loss, "loss"), (dice, "dice")):
        for subset, colour in (("train", "#8aa4c8"), ("val", "#c2410c")):
            axis.plot(epochs, [row[f"{subset}_{what}"] for row in history], color=colour, label=subset, marker=".")
        axis.axvline(best_epoch, color="#94a3b8", linestyle=":", label=f"best epoch {best_epoch}")
        axis.set(xlabel="epoch", title={"loss": "Loss", "dice": "Dice"}[what])
        axis.legend(frameon=False)
    dice.set_ylim(0, 1)
    rate.plot(epochs, [row["learning_rate"] for row in history], color="#0f766e")
    rate.set(xlabel="epoch", title="Learning rate", yscale="log")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def write_page(trained: TrainedModel, native_dice: float, picture: Path, page: Path) -> None:
    """Write the page of a model with the picture of `draw_curve`; under 1 MB.

    native_dice: mean Dice of the validation scans in their own space, at the model's threshold.
    """
    shown = trained.model_dump(include={"best_epoch", "best_val_dice", "threshold", "params"})
    source = embedded(picture.read_bytes())
    synthetic = "data" in trained.lineage
    page.write_text(
        render(BODY, title="Training", synthetic=synthetic, native_dice=native_dice, picture=source, **shown)
    )
