"""Copies of versions in other places, which outlive this disk. Knows files and manifests, not what a version means."""
