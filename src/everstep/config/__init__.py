"""Settings: what can be set, where a value came from, and what differs between two runs. Never imports torch.

Nothing is imported here: who only needs an amount does not wait for the schema.
"""
