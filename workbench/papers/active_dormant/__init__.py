"""Active-dormant heads: sinks, drains, peaks and the Bigram-Backcopy task.

Figures, tables and studies of the paper; its method is in method.md beside this file.
"""
