"""The command line: one file for each verb, without logic of its own."""
