"""Gin's operative configuration, parameter by parameter."""

from __future__ import annotations

import re

import gin

__all__ = ["operative_settings"]


def operative_settings() -> dict[str, str]:
    """Every parameter of what gin has called so far, defaults included: by name, as text.

    Where a macro was used its value stands.
    """
    settings = {}
    # A long value goes on in lines that are indented.
    for binding in re.split(r"\n(?![ \n#]|$)", "\n" + gin.operative_config_str()):
        name, equals, value = binding.partition(" = ")
        if equals:
            value = re.sub(r"\n#.*", "", value)
            settings[name] = re.sub(r"\s*\\?\n\s*", " ", value).strip(" \\")

    def expanded(value: str) -> str:
        return re.sub(r"%([\w./]+)", lambda m: expanded(settings.get(m[1], m[0][1:])), value)

    return {name: expanded(value) for name, value in settings.items()}
