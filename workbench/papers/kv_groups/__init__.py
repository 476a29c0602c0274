"""Sycophancy by KV group.

Figures, tables and studies of the paper; its method is in method.md beside this file.
"""
