"""The command line: the app's verbs without a browser, one file per group of verbs."""
