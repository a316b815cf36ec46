"""Every fault of the simulator, by every way to ask, at every place of a chain: the fault matrix.

`python -m verification.matrix` prints it, over real sockets and both SDKs.

- `rows.py`: what a target does wrong, and what it is to be taken for. A new step or option of the
  simulator needs a line there: `tests/verification/test_matrix_rows.py` fails until it has one.
- `ways.py`: the seven ways to ask, and what came of it.
- `cells.py`: where in the chain the fault is, which cells there are, and one cell played.
- `judging.py`: what is wrong with what came of a cell.
- `runs.py`: plays cells, some at a time, in one process or several; those that a busy machine may
  have spoilt again, alone.
"""
