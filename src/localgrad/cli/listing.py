"""``localgrad list``: what can be named."""

from __future__ import annotations

import dataclasses
from typing import Any

from localgrad import data, methods, networks
from localgrad.cli.json_file import check_writable, write_json


def run(flags: dict[str, Any]) -> int:
    """Print the rules with their options, the networks and the data sets."""
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
    print("\ndata sets (--data.name NAME)")
    print(f"  {', '.join(data.names())}")
    found = {"methods": rules, "networks": list(networks.names()), "data": list(data.names())}
    write_json(flags.get("json"), found)
    return 0


def _shown(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else value
