"""A training as it is seen: what the page, the one-file report and --json say of a run. Reads the disk alone.

Never imports torch: it starts at once, beside any training, and on machines that only look on.
"""
