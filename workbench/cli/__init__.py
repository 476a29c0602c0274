"""The command line: `workbench COMMAND …`, the same names and defaults as the functions."""
