"""Pictures: drawn, laid out, looked at for faults, and measured."""
