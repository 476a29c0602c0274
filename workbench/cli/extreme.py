"""`workbench extreme tokens|peak|domains|remedies`: attention sinks, value drains and residual peaks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import workbench as wb
from workbench.cli.options import Heads, Model, Output, Resumable, Texts, finish, head_of, writable


def tokens(model: Model, texts: Texts = Texts(), output: Resumable = Resumable(Path("extreme-tokens.nc"))) -> None:
    """Which tokens are attention sinks, have drained values, and have residual peaks?

    Example: workbench extreme tokens organism-gqa --texts prose=novels.txt code=sources.jsonl
    """
    from workbench.papers.active_dormant.sentences import tokens_table

    loaded, domains, length = _read(model, texts, output)
    every = [text for some in domains.values() for text in some]
    found = wb.extreme_tokens(loaded, every, max_tokens=length, resume=output.journal, progress=output.progress)
    finish(found, output.out, tokens_table(found))


def peak(model: Model, texts: Texts = Texts(), output: Output = Output(Path("extreme-peak.nc"))) -> None:
    """Which layers make the residual peak of the first token, and which remove it again?

    Example: workbench extreme peak organism-gqa
    """
    loaded, domains, length = _read(model, texts, output)
    every = [text for some in domains.values() for text in some]
    found = wb.extreme.peak_sources(loaded, every, max_tokens=length, progress=output.progress)
    finish(found, output.out, wb.extreme.peak_verdict(found))


def domains(
    model: Model,
    texts: Texts = Texts(),
    which: Heads = Heads(),
    output: Resumable = Resumable(Path("extreme-domains.nc")),
) -> None:
    """Which heads are dormant on one kind of text and active on another?

    Example: workbench extreme domains organism-gqa --texts prose=novels.txt code=sources.jsonl
    """
    from workbench.papers.active_dormant.figures import KIND_TOKENS, KINDS
    from workbench.papers.active_dormant.sentences import domains_table
    from workbench.prompts.samples import domain_texts

    samples = {kind: domain_texts()[kind] for kind in KINDS}
    loaded, texts_by_domain, length = _read(model, texts, output, samples, KIND_TOKENS)
    found = wb.active_dormant(
        loaded,
        texts_by_domain,
        length=length,
        n_sequences=which.n,
        heads=[head_of(name) for name in which.heads] or None,
        layers=list(which.layers) or None,
        shortlist=which.shortlist,
        stop_early=which.stop_early,
        resume=output.journal,
        progress=output.progress,
    )
    finish(found, output.out, domains_table(found))


def remedies(model: Model, texts: Texts = Texts(), output: Resumable = Resumable(Path("extreme-remedies.nc"))) -> None:
    """What lowers sinks and peaks, what does it cost, and does rounding to few bits become cheaper?

    Example: workbench extreme remedies organism-gqa
    """
    from workbench.papers.active_dormant.sentences import remedies_table

    loaded, domains, length = _read(model, texts, output)
    given = domains if texts.texts else None
    found = wb.extreme.compare_remedies(loaded, given, length=length, resume=output.journal, progress=output.progress)
    finish(found, output.out, remedies_table(found))


def _read(
    model: str, texts: Texts, output: Output, samples: Mapping[str, Sequence[str]] | None = None, tokens: int = 0
) -> tuple:
    """The model, texts by domain (samples where none are given), and how many tokens of each to read."""
    from workbench.papers.active_dormant.figures import DOMAIN_TOKENS, SAMPLE_TOKENS
    from workbench.papers.cache import quiet_load
    from workbench.prompts.samples import SAMPLES, read_texts

    writable(output.out)
    domains = read_texts(texts.texts) or {domain: list(some) for domain, some in (samples or SAMPLES).items()}
    length = texts.length or (DOMAIN_TOKENS if texts.texts else tokens or SAMPLE_TOKENS)
    return quiet_load(model), domains, length
