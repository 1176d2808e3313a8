"""The command line: arguments and options."""
