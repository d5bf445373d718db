"""The command line: what the app does, without a browser; one module per group of subcommands."""
