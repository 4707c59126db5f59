"""What every group of settings is: frozen, strict, and explained under each field."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
List = Field(strict=False)  # for tuples, which TOML and JSON write as lists


class Settings(BaseModel):
    """A frozen group of settings that refuses keys it does not know and values of another type (``"5"`` for 5)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def refuse(*checks: tuple[object, str]) -> None:
    """Raise ValueError with the messages of all checks whose first part is true."""
    wrong = [message for contradiction, message in checks if contradiction]
    if wrong:
        raise ValueError("; ".join(wrong))
