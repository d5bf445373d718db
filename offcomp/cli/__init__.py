"""The command-line interface: everything the app does, without a browser. One module per group of subcommands."""
