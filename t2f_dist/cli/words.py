"""What several commands say and take alike."""


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cores(workers: int | None) -> int:
    import os

    return workers or len(os.sched_getaffinity(0))
