"""What frozen encoders make of pictures and prompts, kept by content, so that it is made once.

Derived: it may be deleted at any time, which costs time and nothing else. Never imports torch.
"""
