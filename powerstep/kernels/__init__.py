"""Kernels that update all parameters of a group in one call, generated from an optimizer's formula.

On a CPU they are C, compiled by the system's C compiler; on CUDA they are Triton.
"""
