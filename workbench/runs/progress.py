"""Whether bars are shown: where `progress` asks for them and the environment does not forbid them."""

import os


def hidden(progress: bool) -> bool:
    """What tqdm takes as `disable`; given as an argument, it would overrule TQDM_DISABLE.

    Args:
        progress: whether a bar is wanted.
    """
    return not progress or os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false")
