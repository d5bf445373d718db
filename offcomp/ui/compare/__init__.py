"""The Compare page: which run is better, and by how much."""
