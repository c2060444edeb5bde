"""The battery: measures what a finished run has really forgotten, against the network trained again without the data.

It reads a run directory, tells its story again where more than the released models is needed, trains shadow models
for the attacks that need them, and writes ``evaluation.json``, tables and figures beside the run.
"""
