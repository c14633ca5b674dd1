"""Bytes and seconds as a person reads them."""


def in_units(size: float) -> str:
    """1,234,567 -> '1.2 MB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def in_time(seconds: float) -> str:
    """3,700 -> '62 min', 7,300 -> '2 h 2 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
