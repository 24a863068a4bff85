"""Ranges that several sections share."""

from typing import Annotated

from pydantic import Field

NonNegativeFloat = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
SAMPLE_RATES_HZ = range(1_000, 192_001)  # of voices
SampleRate = Annotated[int, Field(ge=SAMPLE_RATES_HZ[0], le=SAMPLE_RATES_HZ[-1])]
Fraction = Annotated[float, Field(ge=0, le=1)]
