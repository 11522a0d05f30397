"""Transfer-Prompting side by side with what people would use instead; `python -m programs.benchmarks.peers --help`.

Every optimiser gets the same DSPy program, scorer LM, reference LM, examples and the same hard budget of scorer calls,
and is measured on the same held-out questions, which none of them sees. A scorer call is a pair of a prompt and an
example: where DSPy's cache knows a pair already, its repetition is free, for everybody.

`suite` has the tasks, `student` the program, `meter` the budget, `methods` the optimisers, `bench` runs a cell (an
optimiser on a target with a seed) and keeps it, `figures` and `tables` make of the cells what a reader looks at.
"""
