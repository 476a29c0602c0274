"""The report: one self-contained HTML page about one or more models, composed from the figures of the papers."""
