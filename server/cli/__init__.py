"""The command line: options, progress and output of every command; what a command does is done elsewhere."""
