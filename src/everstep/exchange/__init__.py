"""How other programs name the same tensors: tables of rules that hold both ways. Knows names and shapes alone."""
