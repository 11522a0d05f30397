"""How to ask for an instruction: a study of the reference prompt, on tasks that no table of peers is made of.

uv run python -m programs.benchmarks.proposals --lm small.gguf --reference-lm larger.gguf --ways current edit
"""
