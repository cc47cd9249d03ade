"""How pairs lie where people keep them: one module a layout. What a path is, `source` tells."""
