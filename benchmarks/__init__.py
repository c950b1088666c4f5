"""What course_lib costs, beside theory, the compiler's count and other people's code: python -m benchmarks --help.

README.md of this folder says what is measured and how to read it.
"""
