"""Everstep trains ControlNets and never loses a step."""

__version__ = "0.1.0"
