"""A task whose confounding tokens are known: LeaF from end to end in minutes on two cores."""
