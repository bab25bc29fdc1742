"""The figures of a single run that a comparison does not have."""

from __future__ import annotations

from markupsafe import Markup

from localgrad.report.figures import HEIGHT, WIDTH
from localgrad.report.palette import token
from localgrad.report.rules import Rule
from localgrad.report.strokes import epochs, line
from localgrad.report.svg import inline, plot, sheet
from localgrad.report.tables import MIB


def training_loss(rule: Rule, name: str = "loss") -> Markup | None:
    """Training loss over the epochs."""
    points = rule.curve(lambda entry: entry.train_loss)
    if not points:
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    line(axes, points, rule.look)
    epochs(axes)
    axes.set_ylabel("Training loss")
    return inline(figure, name, "Training loss over epochs", "One line.")


def block_losses(rule: Rule, name: str = "losses") -> Markup | None:
    """The local loss of every block over the epochs; the deeper the block, the darker its line."""
    curve = rule.runs[0].curve
    count = max((len(entry.losses) for entry in curve), default=0)
    if count < 2:
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    for block in range(count):
        known = [(entry.epoch, entry.losses[block]) for entry in curve if block < len(entry.losses)]
        depth = block / (count - 1)
        axes.plot(
            [epoch for epoch, _ in known],
            [float("nan") if value is None else value for _, value in known],
            color=rule.look.colour if block < count - 1 else token("ink"),
            alpha=0.25 + 0.75 * depth,
            linewidth=1.2 if block < count - 1 else 2.0,
            marker="o" if len(known) == 1 else None,
            zorder=2 + depth,
        )
    epochs(axes)
    axes.set_ylabel("Local loss")
    text = f"{count} lines, the first block the lightest, the last block's in the text colour."
    return inline(figure, name, "Local loss of every block over epochs", text)


def memory_parts(rule: Rule, name: str = "memory") -> Markup | None:
    """What a step with its update holds at its peak, part by part, as bars."""
    keys = "parameter_bytes", "optimizer_bytes", "peak_memory_bytes"
    weights, state, total = (rule.runs[0].numbers.get(key) for key in keys)
    if weights is None or state is None or not total:
        return None
    rest = total - weights - state
    parts = [
        ("Weights, heads included", weights),
        ("Optimizer state", state),
        ("Activations and gradients", rest),
    ]
    figure = sheet(WIDTH, 40 * len(parts))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, total), ylim=(len(parts) - 0.5, -0.5))
    axes.set_axis_off()
    left = 0.0
    for row, (label, size) in enumerate(parts):
        axes.barh(row + 0.22, total, 0.3, color=token("line"), alpha=0.45)
        axes.barh(row + 0.22, size, 0.3, left=left, color=rule.look.colour, linewidth=0)
        axes.text(0, row - 0.18, label, va="center", weight="bold")
        shown = f"{size / MIB:,.1f} MiB  ·  {100 * size / total:.0f} %"
        axes.text(total, row - 0.18, shown, va="center", ha="right")
        left += size
    text = "; ".join(f"{label} {size / MIB:.1f} MiB" for label, size in parts)
    return inline(figure, name, "Peak memory of a step", text)
