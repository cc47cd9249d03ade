"""Other people's trainers, kept: `adapters.lightning`, `adapters.accelerate`, and a loader for every loop.

Each module needs its own library, which nothing else of the program imports. All of them stand on `keeping`.
"""
