"""transformers' models by type, by class, or by a configuration file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.networks.library import Facts, built, imported, reason, unknown, unusable

# what a type alone stands for: the first of these that it has
_TASKS = ("IMAGE_CLASSIFICATION", "MASKED_LM", "CAUSAL_LM", "SEQUENCE_CLASSIFICATION")


def names() -> list[str]:
    """The types of models that transformers builds and that this module takes."""
    return sorted(_architectures())


def load(name: str, facts: Facts | None, options: dict[str, Any]) -> nn.Module:
    """Build a model of transformers that maps one tensor to logits, with random weights.

    The model is transformers' own object with its own state-dict keys; a forward hook takes
    ``logits`` out of what it returns, so that ``model(images)`` or ``model(tokens)`` is a tensor.
    Language models are told not to return a cache.

    Args:
        name: a class (``"ViTForImageClassification"``), a type (``"gpt2"``: its image classifier
            where it has one, else its masked or causal language model), or the path of a
            ``config.json``, whose ``architectures`` names the class.
        facts: of the data: number of labels and, for models of images, channels and size where
            the configuration has them. Options win.
        options: keyword arguments of the configuration.

    Raises:
        LocalgradError: for an unknown name, file or option, or a value that the library refuses.
    """
    label = f"transformers:{name}"
    written: dict[str, Any] = {}
    if name.endswith(".json") or Path(name).is_dir():
        written = _read(Path(name))
        name = (written.get("architectures") or [written.get("model_type")])[0]
    cls = _model_class(name)
    default = _default(cls.config_class)
    for option in options:
        _check_option(label, option, default, cls.config_class)
    given = {**written, **(_about(cls, default, facts) if facts else {}), **options}
    given.pop("model_type", None)
    if isinstance(options.get("vision_config"), dict) and facts:
        about = _about(cls, default, facts).get("vision_config", {})
        given["vision_config"] = {**about, **options["vision_config"]}
    config = built_config(label, cls.config_class, given)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    model = built(label, lambda: cls(config))
    model.register_forward_hook(_logits)
    return model


def _logits(model: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def built_config(label: str, config_class: Any, given: dict[str, Any]) -> Any:
    """Return the configuration; what it refuses becomes one line."""
    try:
        return config_class(**given)
    except Exception as error:
        raise LocalgradError(f"network {label!r} cannot be built: {reason(error)}") from error


def _library() -> Any:
    return imported("transformers", "transformers")


def _architectures() -> dict[str, str]:
    """The class that each type stands for."""
    _library()  # its absence is told before that of its parts
    auto: Any = imported("transformers.models.auto.modeling_auto", "transformers")
    found: dict[str, str] = {}
    for task in _TASKS:
        for kind, cls in getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            found.setdefault(kind, cls if isinstance(cls, str) else cls[0])
    return found


def _model_class(name: str) -> Any:
    architectures, library = _architectures(), _library()
    wanted = architectures.get(name, name)
    classes = [entry for entry in dir(library) if "For" in entry or entry.endswith("Model")]
    if wanted not in classes:
        raise unknown("transformers model", name, [*architectures, *classes])
    try:
        found = getattr(library, wanted)
    except ModuleNotFoundError as error:  # how transformers reports that a library below failed
        raise unusable("transformers", error) from error
    if not isinstance(getattr(found, "config_class", None), type):
        raise LocalgradError(f"transformers:{name} is no model with a configuration of its own")
    return found


def _default(config_class: Any) -> Any:
    """The configuration without options, or None where it cannot do without."""
    try:
        return config_class()
    except Exception:  # a configuration made of others
        return None


def _check_option(label: str, option: str, default: Any, config_class: Any) -> None:
    parameters = inspect.signature(config_class.__init__).parameters
    if default is None or option in parameters or hasattr(default, option):
        return
    known = sorted({*default.to_dict(), *parameters} - {"self", "kwargs"})
    raise unknown(f"option of {label}", option, known)


def _about(cls: Any, default: Any, facts: Facts) -> dict[str, Any]:
    given: dict[str, Any] = {"num_labels": facts.num_classes}
    if getattr(cls, "main_input_name", "") != "pixel_values" or default is None:
        return given
    size = facts.image_size
    about = {"num_channels": facts.in_channels, "image_size": size}
    inner = getattr(default, "vision_config", None)
    if inner is not None:
        return {**given, "vision_config": {k: v for k, v in about.items() if hasattr(inner, k)}}
    return {**given, **{k: v for k, v in about.items() if hasattr(default, k)}}


def _read(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalgradError(f"{path} is not JSON: {error}") from error
    if not isinstance(written, dict) or not ("architectures" in written or "model_type" in written):
        raise LocalgradError(f"{path} is no configuration: it names no model_type")
    return written
