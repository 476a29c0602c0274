"""Which architectures are measured rightly? Each is compared with hooks on plain Hugging Face modules, cell by cell.

python -m benchmarks.architectures                        the whole table
python -m benchmarks.architectures Llama Qwen3Next        some rows, by the beginnings of their names
python -m benchmarks.architectures --write docs/architectures.md
"""
