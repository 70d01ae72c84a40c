"""value.py - one measured figure."""
import dataclasses


@dataclasses.dataclass
class Value:
    number: float
    checksum: str = ""  # of what was computed; the same on every machine
    unit: str = "s"
    more: bool = False  # more is better: of several the most counts, not the least
