"""From ``method`` and its options to a rule."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from localgrad import methods
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.building.by_path import made_by
from localgrad.experiment.config import sentence
from localgrad.experiment.options.kinds import Choice


def build_method(choice: Choice, data: Dataset | TextDataset | None = None) -> methods.Method:
    """Build a rule by name, its options' kinds checked; InfoPro learns the normalisation."""
    options = choice.options
    if ":" in choice.name:
        made: methods.Method = made_by(choice.name, options, "method")
        return made
    if choice.name == methods.InfoPro.name and isinstance(data, Dataset):
        options = {"mean": data.mean, "std": data.std, **options}
    methods.check(choice.name, options)
    try:
        method: methods.Method = TypeAdapter(methods.KNOWN[choice.name]).validate_python(options)
    except ValidationError as error:
        raise LocalgradError(sentence(error.errors()[0], "method")) from error
    return method
