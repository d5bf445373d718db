"""The Runs page: active and finished runs."""
