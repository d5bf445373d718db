"""The Compress page: choose modules, methods and a budget, preview the result and start runs."""
