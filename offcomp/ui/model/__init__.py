"""The Model page: where a model's parameters are."""
