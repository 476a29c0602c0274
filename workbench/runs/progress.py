"""Whether bars are shown: where `progress` asks for them and the environment does not forbid them."""

import os


def hidden(progress: bool) -> bool:
    """What tqdm takes as `disable`; `progress` alone, given as an argument, would overrule TQDM_DISABLE."""
    return not progress or os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false")
