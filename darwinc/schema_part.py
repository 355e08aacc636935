"""What every part of a report has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the report; fields that this version doesn't know are kept as they are."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null", protected_namespaces=())
