"""The command line: everything the app does, without a browser. One module per group of subcommands."""
