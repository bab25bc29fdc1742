"""``localgrad list``: what can be named."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

from localgrad import data, methods, networks
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file

_KINDS = {
    "timm": "models, as in timm.list_models()",
    "torchvision": "classifiers, as in torchvision.models.list_models()",
    "transformers": "types of models; also a class, or the path of a config.json",
}


def run(flags: dict[str, Any]) -> int:
    """Print the rules with their options, the networks, the data sets and the decouplings."""
    check_writable(flags.get("json"))
    rules: list[dict[str, Any]] = [
        {
            "name": name,
            "text": (cls.__doc__ or "").splitlines()[0],
            "options": {
                field.name: list(field.default)
                if isinstance(field.default, tuple)
                else field.default
                for field in dataclasses.fields(cls)
            },
        }
        for name, cls in methods.KNOWN.items()
    ]
    width = max(len(rule["name"]) for rule in rules) + 2
    print("rules (--method.name NAME --method.OPTION VALUE)")
    for rule in rules:
        print(f"  {rule['name']:<{width}}{rule['text']}")
        options = ", ".join(f"{key}={_shown(value)}" for key, value in rule["options"].items())
        if options:
            print(f"  {'':<{width}}{options}")
    print("\nnetworks (--network.name NAME, or package.module:callable)")
    print(f"  {', '.join(networks.names())}")
    families = {library: _family(library) for library in networks.LIBRARIES}
    width = max(len(library) for library in families) + 7
    for library, family in families.items():
        text = family["error"] or f"{len(family['names'])} {_KINDS[library]}"
        print(f"  {library + ':NAME':<{width}}{text}")
    print("\ndata sets (--data.name NAME)")
    print(f"  {', '.join(data.names())}")
    shipped = {name: decoupling_file.read(name).source for name in decoupling_file.names()}
    print("\ndecouplings (train --decoupling NAME, transfer NAME)")
    for line in _families_of(list(shipped)):
        print(f"  {line}")
    found = {
        "methods": rules,
        "networks": list(networks.names()),
        "libraries": families,
        "data": list(data.names()),
        "decouplings": shipped,
    }
    write_json(flags.get("json"), found)
    return 0


def _families_of(shipped: list[str]) -> list[str]:
    """Return a line of names for each rule."""
    rules: dict[str, list[str]] = {}
    for name in shipped:
        rules.setdefault(name.partition("-")[0], []).append(name)
    return [
        line
        for names in rules.values()
        for line in textwrap.wrap(", ".join(names), 96, break_on_hyphens=False)
    ]


def _family(library: str) -> dict[str, Any]:
    try:
        return {"names": networks.library_names(library), "error": None}
    except LocalgradError as error:
        return {"names": [], "error": str(error)}


def _shown(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else value
