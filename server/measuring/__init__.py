"""What `tolbooth bench` and the scripts of `benchmarks/` measure with: arms in turns, engines over a text, tables.

Knows engines, tables and clocks. Prints nothing, and imports no library of the command line or of HTTP.
"""
