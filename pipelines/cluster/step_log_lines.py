"""A step's own lines in the log of its pod, where Argo, KFP's launcher and its executor write too."""

import re
from collections.abc import Iterable, Iterator

OTHERS = re.compile(
    r"[IWEF]\d{4} \d\d:\d\d:"  # KFP's launcher, and what it prints over several lines
    r"|time=[\"\d]|\{\"time\""  # Argo's executor: 3, 4, and as JSON
    r"|\[KFP Executor |Wrote executor output file|Did not write output file"
    r"|executorInput=|launcher info:"
    r"|\s+\"|\s*[\[\]{}]+,?$|\s+(-?[\d.]+|true|false|null),?$"  # a part of JSON that goes over several lines
    r"|/\S+\.py:\d+: \w*Warning: |\s+warnings\.warn\("
)


def own_lines(log: Iterable[str]) -> Iterator[str]:
    """The lines that the step itself wrote; it writes no JSON over several lines."""
    return (line for line in log if line.strip() and not OTHERS.match(line))
