"""Other programs' ControlNets and trainings on their way into the house: read without being believed. Never torch."""
