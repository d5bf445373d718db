"""The Atlas page: bundled measurements for every module, method and ratio."""
