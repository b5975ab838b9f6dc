"""What the programs of this folder share: they do one thing with a client, and tell what came of it.

They are run by the Python of an environment that `make test-clients` makes, and so may import nothing of this project.
"""

import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

# url, key, model, text
Do = Callable[[str, str, str, str], Any]


def tell(package: str, todo: Mapping[str, Do]) -> None:
    """Do what the command line says (`WHAT URL KEY MODEL TEXT`), and print one JSON object.

    It has the `version` of the package, and a `value` or an `error`.
    """
    what, *rest = sys.argv[1:]
    url, key, model, text = rest
    told: dict[str, Any] = {"version": version(package)}
    try:
        told["value"] = todo[what](url, key, model, text)
    except Exception as exc:  # whatever a client raises is what the test is about
        types = [each.__name__ for each in type(exc).__mro__]
        told["error"] = {"types": types, "status": getattr(exc, "status_code", None), "message": str(exc)}
    print("\n" + json.dumps(told))
