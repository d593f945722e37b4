"""Filter the log of a pod for the lines of the step; Argo, KFP's launcher and its executor write there too."""

import re
from collections.abc import Iterable, Iterator

OTHERS = re.compile(
    r"[IWEF]\d{4} \d\d:\d\d:"  # KFP's launcher
    r"|time=[\"\d]|\{\"time\""  # Argo's executor, of versions 3 and 4, and as JSON
    r"|\[KFP Executor |Wrote executor output file|Did not write output file"
    r"|executorInput=|launcher info:"
    r"|\s+\"|\s*[\[\]{}]+,?$|\s+(-?[\d.]+|true|false|null),?$"  # a part of JSON over several lines
    r"|/\S+\.py:\d+: \w*Warning: |\s+warnings\.warn\("
)


def own_lines(log: Iterable[str]) -> Iterator[str]:
    """Return the lines that the step itself wrote; a step never writes JSON over several lines."""
    return (line for line in log if line.strip() and not OTHERS.match(line))
