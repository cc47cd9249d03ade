"""All that happens before PyTorch: begin a run, go on with it, refuse, or tell what it would be."""
